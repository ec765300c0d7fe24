"""One address for many workers, without its workers: what it lets in, what becomes of a prompt whose worker is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings, strategies
from PIL import Image

from xpu_utils.serve.clients import BEHIND_LIMIT, Clients
from xpu_utils.serve.gateway import Gateway
from xpu_utils.serve.journal import Journal
from xpu_utils.serve.masks import with_mask
from xpu_utils.serve.pool import Member
from xpu_utils.serve.requests import Refused, parsed, wanted
from xpu_utils.serve.routes import Routes
from xpu_utils.serve.store import Store
from xpu_utils.workers.cluster import Place
from xpu_utils.workers.server import ServerLost
from xpu_utils.workers.worker import File, Outcome, Report

NODES = {"1": {"class_type": "Say", "inputs": {"text": "x"}}}
Deed = Callable[[], AsyncIterator[Any]]


class FakePool:
    """Workers that do what they are told, in turn."""

    def __init__(self, *members: str) -> None:
        self.members = [Member(Place("node", "host", name), ready=SimpleNamespace(models={})) for name in members]
        self.deeds: dict[str, list[Deed]] = {name: [] for name in members}
        self.given: list[tuple[str, str]] = []
        self.refusals: dict[str, dict[str, Any]] = {}
        self.problem = "none"
        self.demand = self.on_change = lambda: None

    def ready(self) -> list[Member]:
        return self.members

    def idle(self) -> list[Member]:
        return [member for member in self.members if not member.prompt_id]

    def busy(self, member: Member, prompt_id: str) -> None:
        member.prompt_id = prompt_id

    def free(self, member: Member) -> None:
        member.prompt_id = ""

    def drop(self, member: Member, problem: str) -> None:
        self.members.remove(member)

    def wake(self) -> None:
        pass

    async def refusal(self, member: Member, *what: Any) -> dict[str, Any]:
        return self.refusals.get(member.place.device, {})

    async def interrupt(self, member: Member) -> None:
        pass

    def run(self, member: Member, nodes: Any, extra: Any, files: Any) -> AsyncIterator[Any]:
        self.given.append((member.place.device, extra["prompt_id"]))
        return self.deeds[member.place.device].pop(0)()


def outcome(error: str = "", **more: Any) -> Outcome:
    history = {"outputs": {"1": {"images": [{"filename": "a.png", "subfolder": "s", "type": "output"}]}}, "status": {}}
    files = (File("1", "a.png", True, b"picture", "s"),)
    return Outcome(files, {}, Report("w", "cpu", 0.0, 0.0), error, **{"history": history, **more})


async def does() -> AsyncIterator[Any]:
    yield json.dumps({"type": "accepted", "data": {"node_errors": {}}})
    yield outcome()


async def ends() -> AsyncIterator[Any]:
    yield json.dumps({"type": "accepted", "data": {"node_errors": {}}})
    raise ServerLost("ComfyUI ended.")


async def loses_its_device() -> AsyncIterator[Any]:
    yield json.dumps({"type": "accepted", "data": {"node_errors": {}}})
    yield outcome("lost", device_lost=True)


async def refuses() -> AsyncIterator[Any]:
    yield outcome("no such model", refusal={"error": {"message": "no such model"}, "node_errors": {"1": {}}})


def address(folder: Path, pool: FakePool) -> tuple[Gateway, Routes]:
    store, clients = Store(folder), Clients()
    errors = SimpleNamespace(RayError=ConnectionAbortedError)
    journal = Journal(folder / "queue", print)
    gateway = Gateway(SimpleNamespace(exceptions=errors), pool, store, clients, journal, print)  # type: ignore[arg-type]
    return gateway, Routes(gateway, pool, store, clients, upload_bytes=1 << 20)  # type: ignore[arg-type]


async def settled(gateway: Gateway) -> None:
    while gateway.status()["exec_info"]["queue_remaining"]:
        await asyncio.sleep(0.01)


def ended(gateway: Gateway, prompt_id: str) -> Any:
    """What the history has of a prompt."""
    return json.loads(gateway.history.entry(prompt_id))[prompt_id]


def body(**more: Any) -> bytes:
    return json.dumps({"prompt": NODES, **more}).encode()


@pytest.mark.parametrize("lost", [ends, loses_its_device])
@pytest.mark.asyncio
async def test_a_prompt_whose_worker_is_lost_is_done_by_another(tmp_path: Path, lost: Deed) -> None:
    pool = FakePool("a", "b")
    pool.deeds = {"a": [lost], "b": [does, does]}
    gateway, _ = address(tmp_path, pool)
    prompt_id = (await gateway.submit(wanted(body())))["prompt_id"]
    pool.members.reverse()  # the other one has waited for a shorter time
    await settled(gateway)
    entry = ended(gateway, prompt_id)
    assert pool.given == [("a", prompt_id), ("b", prompt_id)]
    (image,) = entry["outputs"]["1"]["images"]
    assert (tmp_path / "output" / image["subfolder"] / image["filename"]).read_bytes() == b"picture"


@pytest.mark.asyncio
async def test_a_prompt_that_takes_two_workers_with_it_is_given_up_and_the_next_runs(tmp_path: Path) -> None:
    pool = FakePool("a")
    pool.deeds = {"a": [ends, ends, does]}
    gateway, _ = address(tmp_path, pool)
    bad = (await gateway.submit(wanted(body())))["prompt_id"]
    good = (await gateway.submit(wanted(body())))["prompt_id"]
    await settled(gateway)
    assert [prompt_id for _, prompt_id in pool.given] == [bad, bad, good]
    status = ended(gateway, bad)["status"]
    assert status["status_str"] == "error"
    assert "workers were lost: a of host: ComfyUI ended." in status["messages"][0][1]["exception_message"]
    assert ended(gateway, good)


@pytest.mark.asyncio
async def test_what_one_worker_refuses_another_may_do(tmp_path: Path) -> None:
    pool = FakePool("a", "b")
    pool.deeds = {"a": [refuses], "b": [does]}
    gateway, _ = address(tmp_path, pool)
    prompt_id = (await gateway.submit(wanted(body())))["prompt_id"]
    await settled(gateway)
    assert ended(gateway, prompt_id)


@pytest.mark.asyncio
async def test_what_all_refuse_is_answered_in_their_words(tmp_path: Path) -> None:
    pool = FakePool("a", "b")
    pool.deeds = {"a": [refuses], "b": [refuses]}
    gateway, _ = address(tmp_path, pool)
    with pytest.raises(Refused) as refusal:
        await gateway.submit(wanted(body()))
    assert refusal.value.status == 400
    assert refusal.value.body["error"]["message"] == "no such model"
    assert gateway.history.listed(most=None, offset=None) == "{}"


@pytest.mark.asyncio
async def test_what_all_busy_workers_would_refuse_is_refused_at_once_and_not_kept(tmp_path: Path) -> None:
    pool, never = FakePool("a", "b"), asyncio.Event()

    async def waits() -> AsyncIterator[Any]:
        yield json.dumps({"type": "accepted", "data": {}})
        await never.wait()

    pool.deeds = {"a": [waits], "b": [waits]}
    gateway, _ = address(tmp_path, pool)
    for _ in range(2):
        await gateway.submit(wanted(body()))
    pool.refusals = {"a": {"error": "no such model"}}
    assert await gateway.submit(wanted(body())), "the other one would take it"
    pool.refusals["b"] = pool.refusals["a"]
    with pytest.raises(Refused) as refusal:
        await gateway.submit(wanted(body()))
    assert (refusal.value.status, refusal.value.body) == (400, {"error": "no such model"})
    assert len(list((tmp_path / "queue").iterdir())) == gateway.status()["exec_info"]["queue_remaining"] == 3


async def saves_what_has_no_plain_name() -> AsyncIterator[Any]:
    yield dataclasses.replace(outcome(), files=(File("1", "a:b_00001_.png", True, b"picture"),))


async def is_broken() -> AsyncIterator[Any]:
    yield "no JSON"


@pytest.mark.parametrize(
    ("deed", "sentence"),
    [(saves_what_has_no_plain_name, "plain names of files"), (is_broken, r"serve itself failed \(JSONDecodeError\)")],
)
@pytest.mark.asyncio
async def test_whatever_happens_a_prompt_ends_in_the_history(tmp_path: Path, deed: Deed, sentence: str) -> None:
    pool = FakePool("a")
    pool.deeds = {"a": [deed, does]}
    gateway, _ = address(tmp_path, pool)
    bad, good = [(await gateway.submit(wanted(body())))["prompt_id"] for _ in range(2)]
    await settled(gateway)
    assert re.search(sentence, ended(gateway, bad)["status"]["messages"][0][1]["exception_message"])
    assert ended(gateway, good)["outputs"]


@pytest.mark.asyncio
async def test_those_in_front_run_first_and_those_taken_out_never(tmp_path: Path) -> None:
    pool = FakePool("a")
    begun = asyncio.Event()

    async def waits() -> AsyncIterator[Any]:
        await begun.wait()
        yield outcome()

    pool.deeds = {"a": [waits, does, does]}
    gateway, _ = address(tmp_path, pool)
    running = asyncio.create_task(gateway.submit(wanted(body())))
    await asyncio.sleep(0)
    last, gone, first = [
        (await gateway.submit(wanted(body(front=front))))["prompt_id"] for front in (False, False, True)
    ]
    await gateway.take_out([gone])
    begun.set()
    await settled(gateway)
    await running
    assert [prompt_id for _, prompt_id in pool.given[1:]] == [first, last]


@pytest.mark.asyncio
async def test_uploads_have_a_limit_and_prompts_too(tmp_path: Path) -> None:
    _, routes = address(tmp_path, FakePool())
    async with TestClient(TestServer(routes.application(""))) as client:
        form = aiohttp.FormData()
        form.add_field("image", b"x" * (2 << 20), filename="a.png")
        assert (await client.post("/upload/image", data=form)).status == 413
        assert (await client.post("/prompt", data=b" " * (9 << 20))).status == 413


@pytest.mark.asyncio
async def test_a_different_file_of_the_same_name_gets_another_and_the_same_one_does_not(tmp_path: Path) -> None:
    _, routes = address(tmp_path, FakePool())
    names = []
    async with TestClient(TestServer(routes.application(""))) as client:
        for content in (b"one", b"two", b"one"):
            form = aiohttp.FormData()
            form.add_field("image", content, filename="a.png")
            names.append((await (await client.post("/upload/image", data=form)).json())["name"])
        shown = await client.get("/view", params={"filename": names[1], "type": "input"})
        assert await shown.read() == b"two"
    assert names == ["a.png", "a (1).png", "a.png"]


def test_uploads_of_one_name_at_the_same_time_are_each_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def upload(number: int) -> str:
        return store.upload("input", "", "a.png", str(number).encode(), overwrite=False)

    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(upload, range(40)))
    assert [store.find("input", "", name).read_bytes() for name in names] == [str(n).encode() for n in range(40)]
    assert len(list((tmp_path / "input").iterdir())) == 40


@pytest.mark.parametrize(("name", "subfolder"), [("b.png", "a.png"), ("b.png", "a.png/c"), ("folder", "")])
@pytest.mark.asyncio
async def test_a_file_in_a_folders_place_is_the_clients_mistake(tmp_path: Path, name: str, subfolder: str) -> None:
    _, routes = address(tmp_path, FakePool())
    (tmp_path / "input" / "folder").mkdir()
    (tmp_path / "input" / "a.png").write_bytes(b"x")
    form = aiohttp.FormData({"subfolder": subfolder, "overwrite": "true"})
    form.add_field("image", b"x", filename=name)
    async with TestClient(TestServer(routes.application(""))) as client:
        assert (await client.post("/upload/image", data=form)).status == 400


@pytest.mark.asyncio
async def test_a_client_that_asks_and_never_reads_is_let_go() -> None:
    clients = Clients()
    waiting = clients._waiting["a"] = asyncio.Queue()
    for _ in range(BEHIND_LIMIT + 9):
        clients.send("a", "x")
    assert waiting.qsize() == BEHIND_LIMIT + 1
    assert "a" not in clients._waiting


def test_a_text_that_is_no_path_is_no_input(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert list(store.inputs_of({"1": {"inputs": {"text": "b/" * 3000}}})) == []
    with pytest.raises(Refused):
        store.find("output", "a/" * 3000, "b.png")


@pytest.mark.parametrize("form", ["PNG", "PCX"])  # as EPS, which starts a program
def test_a_mask_is_put_on_the_usual_kinds_of_pictures_only(tmp_path: Path, form: str) -> None:
    drawn = io.BytesIO()
    Image.new("RGB", (4, 4)).save(drawn, format=form)
    (tmp_path / "a.png").write_bytes(drawn.getvalue())
    mask = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(mask, format="PNG")
    if form == "PNG":
        assert with_mask(tmp_path / "a.png", mask.getvalue())
    else:
        with pytest.raises(Refused, match="400"):
            with_mask(tmp_path / "a.png", mask.getvalue())


@settings(deadline=None)
@given(strategies.text(max_size=20), strategies.text(max_size=20))
def test_names_never_lead_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, subfolder: str, name: str
) -> None:
    root = tmp_path_factory.mktemp("store")
    (root / "secret").write_text("secret")
    store = Store(root / "files")
    try:
        kept = store.upload("input", subfolder, name, b"x", overwrite=True)
    except Refused:
        pass
    else:
        assert store.find("input", subfolder, kept).is_relative_to(root / "files" / "input")
    assert sorted(entry.name for entry in root.iterdir()) == ["files", "secret"]


@pytest.mark.parametrize(
    "name", ["../secret", "..", "a/b", "a\\b", "/etc/passwd", "C:a", "nul.png", "", "a\0b", "x" * 300]
)
def test_what_is_no_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused):
        Store(tmp_path).upload("input", "", name, b"x", overwrite=True)


@settings(deadline=None)
@given(strategies.binary(max_size=50) | strategies.text(max_size=50).map(str.encode))
def test_a_body_is_json_or_refused(text: bytes) -> None:
    try:
        value = parsed(text)
    except Refused:
        pass
    else:
        json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("prompt_id", ["../x", "A" * 36, 1, str(uuid.uuid4()).upper(), ""])
def test_a_prompts_id_is_a_uuid(prompt_id: Any) -> None:
    with pytest.raises(Refused, match="400"):
        wanted(body(prompt_id=prompt_id))
