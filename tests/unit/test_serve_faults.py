"""One address, when its disk is full, when nodes send what ComfyUI does not, when many ask at once."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.test_serve import FakePool, address, body, does, ended, outcome, settled
from xpu_utils.serve import command, gateway
from xpu_utils.serve.gateway import Gateway
from xpu_utils.serve.requests import Refused, wanted
from xpu_utils.serve.store import Store


async def submitted(gateway: Gateway, **more: Any) -> str:
    prompt_id: str = (await gateway.submit(wanted(body(**more))))["prompt_id"]
    return prompt_id


@pytest.mark.asyncio
async def test_what_was_computed_when_the_disk_was_full_is_kept_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep, tries = Store.keep, []

    def when_there_is_room(store: Store, *what: Any) -> None:
        tries.append(what)
        if len(tries) < 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        keep(store, *what)

    monkeypatch.setattr(Store, "keep", when_there_is_room)
    monkeypatch.setattr(gateway, "ROOM_SECONDS", 0)
    pool = FakePool("a")
    pool.deeds = {"a": [does, does]}
    here, _ = address(tmp_path, pool)
    first, last = [await submitted(here) for _ in range(2)]
    await settled(here)
    assert [prompt_id for _, prompt_id in pool.given] == [first, last]
    assert (tmp_path / "output" / first / "s" / "a.png").is_file()
    assert capsys.readouterr().out.count("The disk is full") == 1


@pytest.mark.asyncio
async def test_an_interrupt_ends_the_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = asyncio.Event()

    async def interrupts(seconds: float) -> None:
        full.set()
        await here.interrupt(None)

    def no_room(*what: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    pool = FakePool("a")
    pool.deeds = {"a": [does]}
    here, _ = address(tmp_path, pool)
    monkeypatch.setattr(Store, "keep", no_room)
    prompt_id = await submitted(here)
    with monkeypatch.context() as patched:
        patched.setattr(gateway.asyncio, "sleep", interrupts)
        await full.wait()
    await settled(here)
    assert "No space left" in str(ended(here, prompt_id))


@pytest.mark.asyncio
async def test_an_event_of_a_node_with_any_data_does_not_keep_the_end_from_the_client(tmp_path: Path) -> None:
    async def sends_anything() -> AsyncIterator[Any]:
        for kind, data in (("accepted", {}), ("executing", None), ("executed", {"output": {}}), ("mine", [1])):
            yield json.dumps({"type": kind, "data": data})
        yield json.dumps({"type": "execution_success", "data": {}})
        yield outcome()

    pool = FakePool("a")
    pool.deeds = {"a": [sends_anything]}
    here, _ = address(tmp_path, pool)
    sent = here._clients._waiting["me"] = asyncio.Queue()
    prompt_id = await submitted(here, client_id="me")
    await settled(here)
    kinds = [json.loads(sent.get_nowait())["type"] for _ in range(sent.qsize())]
    assert [kind for kind in kinds if kind != "status"] == ["executing", "executed", "mine", "execution_success"]
    assert ended(here, prompt_id)["outputs"]


@pytest.mark.asyncio
async def test_of_many_that_arrive_at_an_idle_worker_each_is_checked_one_at_a_time(tmp_path: Path) -> None:
    at_once: list[int] = []

    class Picky(FakePool):
        checking = 0

        async def refusal(self, *what: Any) -> dict[str, Any]:
            self.checking += 1
            at_once.append(self.checking)
            await asyncio.sleep(0)
            self.checking -= 1
            return {"error": "no such model"}

    pool = Picky("a")
    pool.deeds = {"a": [does]}
    here, _ = address(tmp_path, pool)
    first, *others = await asyncio.gather(*(submitted(here) for _ in range(5)), return_exceptions=True)
    await settled(here)
    assert isinstance(first, str)
    assert [type(other) for other in others] == [Refused] * 4
    assert at_once == [1] * 4


@pytest.mark.asyncio
async def test_others_are_served_while_many_are_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others, unlink = threading.Event(), Path.unlink

    def slowly(file: Path, **options: Any) -> None:
        assert others.wait(5)
        unlink(file, **options)

    here, _ = address(tmp_path, FakePool())
    await submitted(here)
    monkeypatch.setattr(Path, "unlink", slowly)
    taken_out = asyncio.create_task(here.take_out(None))
    await asyncio.sleep(0)
    others.set()
    await taken_out
    assert list((tmp_path / "queue").iterdir()) == []


@pytest.mark.asyncio
async def test_what_was_interrupted_does_not_come_back(tmp_path: Path) -> None:
    async def goes_on() -> AsyncIterator[Any]:
        yield json.dumps({"type": "accepted", "data": {}})
        await asyncio.Event().wait()

    pool = FakePool("a")
    pool.deeds = {"a": [goes_on]}
    here, _ = address(tmp_path, pool)
    await submitted(here)
    await here.interrupt(None)
    here.stop()
    assert address(tmp_path, FakePool())[0].take_up() == 0


@pytest.mark.asyncio
async def test_a_port_that_cannot_be_had_is_said() -> None:
    runner = web.AppRunner(web.Application())
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 99999):
            with pytest.raises(command.CannotServe, match="cannot be listened on"):
                await command._listen(runner, "127.0.0.1", port)
    await runner.cleanup()
