"""Prompts that wait at one address, those that are remembered, and what of them outlasts the command."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from tests.unit.test_serve import FakePool, address, body, does, ended, outcome, settled
from xpu_utils.serve.command import until_stopped
from xpu_utils.serve.gateway import Gateway
from xpu_utils.serve.history import History
from xpu_utils.serve.queue import Prompt, Queue
from xpu_utils.serve.requests import Refused, wanted
from xpu_utils.workers.server import ServerLost

WORKERS: Any = ("a", "b", "c")


def prompt(number: float, order: int, refused_by: frozenset[Any] = frozenset()) -> Prompt:
    waiting: Any = None  # nobody waits for its answer
    return Prompt(str(order), "", number, order, "[]", {}, waiting, refused_by=refused_by)


@settings(deadline=None)
@given(
    strategies.lists(
        strategies.tuples(strategies.integers(-2, 2), strategies.frozensets(strategies.sampled_from(WORKERS)))
    ),
    strategies.lists(strategies.sampled_from([*WORKERS, "refused", 0, 1, 2, 3])),
)
def test_a_worker_is_given_the_first_prompt_that_it_has_not_refused(put: list[Any], taken: list[Any]) -> None:
    queue, left = Queue(), [prompt(number, order, refused) for order, (number, refused) in enumerate(put)]
    for one in left:
        queue.put(one)
    left.sort(key=lambda one: (one.number, one.order))
    for what in taken:
        if what == "refused":
            gone = queue.take_refused(WORKERS)
            assert {*gone} == {one for one in left if one.refused_by == {*WORKERS}}
        elif isinstance(what, int):
            gone = queue.take_out([str(what), str(what), "nobody's"])
            assert gone == [one for one in left if one.order == what]
        else:
            one = queue.take(what)
            gone = [one] if one else []
            assert one == next((one for one in left if what not in one.refused_by), None)
        left = [one for one in left if one not in gone]
        assert len(queue) == len(left)
        assert queue.size_bytes == 2 * len(left)
        assert all((one.id in queue) == (one in left) for one in (*gone, *left))
    assert queue.take_out(None) is not None
    assert (len(queue), queue.size_bytes) == (0, 0)


def test_the_history_is_bounded_by_count_and_by_bytes() -> None:
    few = History(most=2)
    for name in "abc":
        few.add(name, "[]", {"outputs": {}})
    assert json.loads(few.listed(most=None, offset=None)).keys() == {"b", "c"}
    assert json.loads(few.listed(most=1, offset=None)).keys() == {"c"}
    assert json.loads(few.listed(most=1, offset=0)) == {"b": {"prompt": [], "outputs": {}}}
    small = History(most_bytes=100)
    for name in "abc":
        small.add(name, "[]", {"outputs": "x" * 40})
    assert ("a" in small, "b" in small, "c" in small) == (False, False, True)
    assert small.size_bytes == len(small.entry("c")) - len('{"c": }')
    small.add("d", "[]", {"outputs": "x" * 400})
    assert "d" in small, "the last one is there, whatever it is"
    small.forget(None)
    assert (small.size_bytes, small.entry("d")) == (0, "{}")


class Crash:
    """A worker whose command ends in the middle of a prompt."""

    def __init__(self) -> None:
        self.given = asyncio.Event()

    async def __call__(self) -> Any:
        self.given.set()
        await asyncio.Event().wait()
        yield outcome()


def end(gateway: Gateway, pool: FakePool) -> None:
    """Has nothing more happen in a command."""
    pool.members.clear()
    for task in gateway._tasks:
        task.cancel()


async def crashed(folder: Path, *bodies: bytes, stopped: bool = False) -> list[str]:
    """Has a command take prompts, begin the first one, and end there; answers their ids."""
    pool, deed = FakePool("a"), Crash()
    pool.deeds = {"a": [deed]}
    gateway, _ = address(folder, pool)
    submitted = [asyncio.create_task(gateway.submit(wanted(text))) for text in bodies]
    await deed.given.wait()
    for task in submitted[1:]:
        await task
    if stopped:
        gateway.stop()
    end(gateway, pool)
    return [json.loads(text)["prompt_id"] for text in bodies]


def bodies(count: int, **more: Any) -> list[bytes]:
    return [body(prompt_id=str(uuid.uuid4()), **more) for _ in range(count)]


async def goes_on(folder: Path, *deeds: Any) -> tuple[Gateway, list[str]]:
    """The next command; answers the ids of the prompts that it has done."""
    pool = FakePool("a")
    pool.deeds = {"a": list(deeds)}
    gateway, _ = address(folder, pool)
    gateway.take_up()
    gateway._assign()
    await settled(gateway)
    return gateway, [prompt_id for _, prompt_id in pool.given]


@pytest.mark.asyncio
async def test_a_command_that_was_killed_does_its_prompts_when_it_runs_again_and_nothing_twice(tmp_path: Path) -> None:
    texts = bodies(2, client_id="me", extra_data={"auth_token_comfy_org": "secret", "a": 1})
    texts.append(bodies(1, front=True)[0])
    first, last, front = await crashed(tmp_path, *texts)
    assert "secret" not in "".join(file.read_text() for file in (tmp_path / "queue").iterdir())
    left = tmp_path / "output" / first / "half.png"
    left.parent.mkdir()
    left.touch()
    gateway, given = await goes_on(tmp_path, does, does, does)
    assert given == [front, first, last]
    assert not left.exists()
    assert ended(gateway, last)["prompt"][3] == {"a": 1, "client_id": "me"}
    assert (await goes_on(tmp_path))[1] == []


@pytest.mark.asyncio
async def test_a_prompt_that_takes_the_command_with_it_twice_is_given_up(tmp_path: Path) -> None:
    bad, good = await crashed(tmp_path, *bodies(2))
    pool, deed = FakePool("a"), Crash()
    pool.deeds = {"a": [deed]}
    again, _ = address(tmp_path, pool)
    again.take_up()
    again._assign()
    await deed.given.wait()
    end(again, pool)
    gateway, given = await goes_on(tmp_path, does)
    assert given == [good]
    assert "serve ended twice" in ended(gateway, bad)["status"]["messages"][0][1]["exception_message"]


@pytest.mark.asyncio
async def test_a_command_that_was_stopped_holds_nothing_against_what_ran(tmp_path: Path) -> None:
    for _ in range(3):
        (running,) = await crashed(tmp_path, *bodies(1), stopped=True)
        assert [file.suffix for file in (tmp_path / "queue").iterdir()] == [".0"]
        assert (await goes_on(tmp_path, does))[1] == [running]


@pytest.mark.asyncio
async def test_what_is_taken_out_does_not_come_back_and_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    pool = FakePool()
    gateway, _ = address(tmp_path, pool)
    texts = bodies(3)
    gone, kept, damaged = [(await gateway.submit(wanted(text)))["prompt_id"] for text in texts]
    await gateway.take_out([gone])
    next((tmp_path / "queue").glob(f"*{damaged}*")).write_text("{")
    (tmp_path / "queue" / f"{9:012}-{uuid.uuid4()}.part").write_text("{")
    assert (await goes_on(tmp_path, does))[1] == [kept]
    assert [file.name[13:49] for file in (tmp_path / "queue").iterdir()] == [damaged]


@pytest.mark.asyncio
async def test_a_prompt_that_cannot_be_written_down_is_not_taken(tmp_path: Path) -> None:
    gateway, _ = address(tmp_path, FakePool())
    (tmp_path / "queue").rmdir()
    (tmp_path / "queue").touch()
    (text,) = bodies(1)
    with pytest.raises(Refused) as refusal:
        await gateway.submit(wanted(text))
    assert refusal.value.status == 507
    assert not gateway.status()["exec_info"]["queue_remaining"]
    (tmp_path / "queue").unlink()
    assert await gateway.submit(wanted(text)), "and can be sent again"


class PoolOfAProcess(FakePool):
    """A signal comes while its worker runs a prompt, and the worker ends with the pool."""

    def __init__(self, number: int) -> None:
        super().__init__("a")
        self.ended = asyncio.Event()
        self.deeds = {"a": [self.is_lost]}
        self.number = number

    async def is_lost(self) -> AsyncIterator[Any]:
        yield json.dumps({"type": "accepted", "data": {}})
        signal.raise_signal(self.number)
        await self.ended.wait()
        raise ServerLost("ComfyUI ended.")

    async def keep(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
            for _ in range(9):  # it takes a while
                await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_runs_when_a_signal_stops_the_command_is_not_held_responsible(tmp_path: Path, name: str) -> None:
    (text,) = bodies(1)
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)  # nohup's differ

    async def served() -> None:
        pool = PoolOfAProcess(number)
        gateway, _ = address(tmp_path, pool)
        submitted = asyncio.create_task(gateway.submit(wanted(text)))
        await until_stopped(pool, gateway)  # type: ignore[arg-type]
        await submitted

    try:
        asyncio.run(served())
    finally:
        signal.signal(number, before)
    (file,) = (tmp_path / "queue").iterdir()
    assert file.suffix == ".0"


@pytest.mark.asyncio
async def test_what_is_no_prompt_of_this_version_is_left_out_each_with_its_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "queue"
    gateway, _ = address(tmp_path, FakePool())
    texts = bodies(2)
    good, damaged = [(await gateway.submit(wanted(text)))["prompt_id"] for text in texts]
    first = next(folder.glob(f"*{good}*"))
    twice, other, newer = (folder / name for name in (f"{5:012}-{good}.0", f"{6:012}-{uuid.uuid4()}.0", "v2-7.json"))
    for copy in (twice, other, newer):
        copy.write_bytes(first.read_bytes())
    spoilt = next(folder.glob(f"*{damaged}*"))
    spoilt.write_text("{")
    assert (await goes_on(tmp_path, does))[1] == [good]
    assert capsys.readouterr().out.splitlines() == [
        f"{spoilt} is damaged and left out: The body must be JSON.",
        f"{twice} is damaged and left out: {first.name} is of the same prompt.",
        f"{other} is damaged and left out: It holds the prompt {good}.",
        f"{folder} holds what this version of serve does not know, left out: v2-7.json.",
    ]


@pytest.mark.asyncio
async def test_prompts_on_disk_are_this_user_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    folder.mkdir(mode=0o755)  # of an earlier version
    gateway, _ = address(tmp_path, FakePool())
    await gateway.submit(wanted(*bodies(1)))
    assert [file.stat().st_mode & 0o777 for file in (folder, *folder.iterdir())] == [0o700, 0o600]
