"""A worker: one ComfyUI on one device, which runs prompts and says what it did and where."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import aiohttp

from .files import holds, write_whole
from .server import Answer, Refused, Say, Server, ServerLost
from .setup import Setup

ATTEMPTS = 2
"""Workers that may fail at a job before it is given up: one may be broken, two say that it is the job."""
MODELS = frozenset((".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx"))
"""Endings of the names of models' files: ComfyUI's (`folder_paths.supported_pt_extensions`) and two of packs'."""
_NO_NAME = re.compile(r"[\n:]|, ")
"""What a prompt's text has that ends in such a name."""


def is_model(text: str) -> bool:
    """Whether a text may be the name of a model's file."""
    return PurePath(text).suffix.lower() in MODELS and not _NO_NAME.search(text)


def same_name(name: str) -> str:
    """A file's name below a folder of models, on Windows and elsewhere alike."""
    return name.replace("\\", "/")


@dataclasses.dataclass(frozen=True)
class Need:
    """A text of a prompt that may be a model's file: which it is, only a ComfyUI knows that has the node."""

    node: str
    """Its class."""
    input: str
    name: str


@dataclasses.dataclass(frozen=True)
class File:
    """A file that a prompt made."""

    node_id: str
    """Empty where no node shows it."""
    name: str
    """Its name on the worker."""
    kept: bool
    """Whether it was saved; else it is a preview."""
    content: bytes
    subfolder: str = ""
    """Where it was below the worker's folder."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a prompt was on its worker."""

    worker: str
    """Host name and process id."""
    device: str
    began_at: float
    """Seconds since the epoch when its ComfyUI was given the prompt."""
    seconds: float
    """Until its end."""
    stages: tuple[Mapping[str, Any], ...] = ()
    """The pack's stages: name, effective device, precision, seconds, reason."""
    rungs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """How often each rung was taken."""
    faults: tuple[Mapping[str, Any], ...] = ()
    """The pack's faults: kind, device, stage, rung, message."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Files and report of a prompt; `error` holds one sentence where it failed."""

    files: tuple[File, ...]
    values: Mapping[str, Mapping[str, Any]]
    """Node id -> what it showed beside files, such as texts."""
    report: Report
    error: str = ""
    refusal: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the worker's ComfyUI answered where it did not take the prompt."""
    history: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What it keeps of the prompt."""
    device_lost: bool = False
    """Whether its device cannot be used again by the process that ran it."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """A worker that can be given prompts."""

    address: str
    """Of its server, on its own machine only."""
    process_id: int
    """Of its server."""
    models: Mapping[str, tuple[str, ...]]
    """ComfyUI's folder of models -> the files in it."""


class Worker:
    """One ComfyUI on one device; its methods are for one event loop. As an actor: `cluster.start_worker`."""

    def __init__(self, setup: Setup, device: str) -> None:
        self._setup = setup
        self._device = device
        self._server: Server | None = None

    async def start(self) -> Ready:
        """Starts the server, in place of one that runs or has ended, and answers when it does.

        Raises:
            CannotStart: it does not start.
        """
        server = await self._started()
        folders = [folder for folder in await server.get("/models") if folder != "custom_nodes"]
        models = {folder: await server.get(f"/models/{folder}") for folder in folders}
        found = {
            folder: tuple(name for name in names if PurePath(name).suffix.lower() in MODELS)
            for folder, names in models.items()
        }
        return Ready(server.address, server.process.pid, found)

    async def lacks(self, needs: frozenset[Need]) -> frozenset[Need]:
        """Those that its nodes do not offer. A text that is no choice, such as what a pack downloads, lacks nowhere.

        Raises:
            aiohttp.ClientError: its ComfyUI does not answer.
        """
        known: dict[str, Mapping[str, Any]] = {}
        for node in {need.node for need in needs}:
            with contextlib.suppress(aiohttp.ClientResponseError):  # a pack's node that cannot say what it takes
                known.update(await self.get(f"/object_info/{quote(node, safe='')}") or {})
        return frozenset(need for need in needs if not _offers(known.get(need.node, {}), need))

    async def alive(self) -> bool:
        """Whether its ComfyUI runs."""
        return self._server is not None and self._server.process.poll() is None

    async def run(
        self,
        prompt: Mapping[str, Any],
        names: tuple[str, ...] = (),
        *contents: bytes,
        silence: float,
        extra: Mapping[str, Any] | None = None,
        say: Say | None = None,
    ) -> Outcome:
        """Runs one prompt; a second one at the same time is an error of the caller's.

        Args:
            prompt: in ComfyUI's API format.
            names: of input files, relative to ComfyUI's input folder.
            contents: theirs, in the same order.
            silence: seconds without a sign of life after which the server is taken for hanging. The pack gives up a
                hanging device long before (`recovery.watch`); a model that is read from a slow disk is silent, too.
            extra: what else its ComfyUI is told of the prompt.
            say: is given what it says meanwhile.

        Raises:
            ServerLost: the server ended or hangs; the next prompt gets a new one.
            CannotStart: a new one does not start.
            ValueError: an input file's name leads out of ComfyUI's folder.
        """
        server = self._server or await self._started()
        try:
            for name, content in zip(names, contents, strict=True):
                _write_input(server.folder / "input", name, content, anew=True)
            before = set(_saved(server.folder))
            answer = await server.run(prompt, silence_seconds=silence, extra=extra, say=say)
            job = await _job(server, answer.prompt_id)
            files = tuple(_files(server.folder, answer, before))
        except Refused as refusal:
            return Outcome((), {}, self._report(time.time(), 0.0), str(refusal), refusal=refusal.said)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:  # it ended just now, or the disk is full
            await self.stop()
            raise ServerLost(f"The worker failed: {error}") from error
        except ServerLost:
            await self.stop()
            raise
        device_lost = _lost_its_device(answer, job)
        if device_lost:
            await self.stop()
        report = self._report(answer.began_at, answer.seconds, job)
        return Outcome(files, _values(answer), report, answer.error, history=answer.history, device_lost=device_lost)

    async def check(
        self, prompt: Mapping[str, Any], names: tuple[str, ...], *contents: bytes, extra: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What its ComfyUI would answer to a prompt that it does not take; empty where it takes it, or cannot say.

        Args:
            names, contents: as of `run`; files of these names that are there stay, as a prompt that runs may read them.

        Raises:
            aiohttp.ClientError: its ComfyUI does not answer.
            OSError: an input file cannot be written.
        """
        if self._server is not None:
            for name, content in zip(names, contents, strict=True):
                _write_input(self._server.folder / "input", name, content, anew=False)
            try:
                await self._server.check({**extra, "prompt": prompt})
            except Refused as refusal:
                return refusal.said
        return {}

    async def run_aloud(
        self,
        prompt: Mapping[str, Any],
        names: tuple[str, ...],
        *contents: bytes,
        silence: float,
        extra: Mapping[str, Any],
    ) -> AsyncIterator[str | bytes | Outcome]:
        """As `run`, but also yields what its ComfyUI says meanwhile, before the outcome."""
        said: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        running = asyncio.create_task(
            self.run(prompt, names, *contents, silence=silence, extra=extra, say=said.put_nowait)
        )
        running.add_done_callback(lambda _: said.put_nowait(None))
        while (message := await said.get()) is not None:
            yield message
        yield await running

    async def get(self, path: str) -> Any:
        """What its ComfyUI answers to a GET; None where there is none.

        Raises:
            aiohttp.ClientError: it does not answer.
        """
        return await self._server.get(path) if self._server else None

    async def interrupt(self, prompt_id: str) -> None:
        """Ends a prompt that runs.

        Raises:
            aiohttp.ClientError: its ComfyUI does not answer.
        """
        if self._server:
            await self._server.interrupt(prompt_id)

    async def stop(self) -> None:
        """Ends the server, if there is one."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def _started(self) -> Server:
        await self.stop()
        self._server = await Server.start(self._setup, self._device)
        return self._server

    def _report(self, began_at: float, seconds: float, job: Mapping[str, Any] | None = None) -> Report:
        job = job or {}
        return Report(
            worker=f"{socket.gethostname()}:{os.getpid()}",
            device=self._device,
            began_at=began_at,
            seconds=seconds,
            stages=tuple(job.get("stages", ())),
            rungs=job.get("rungs", {}),
            faults=tuple(job.get("faults", ())),
        )


async def _job(server: Server, prompt_id: str) -> Mapping[str, Any]:
    """What the pack recorded of a prompt; empty where it had no part in it."""
    jobs = (await server.get("/xpu/jobs?limit=1"))["jobs"]
    return next((job for job in jobs if job["prompt_id"] == prompt_id), {})


def _lost_its_device(answer: Answer, job: Mapping[str, Any]) -> bool:
    """Whether this process cannot use its device again; another one may."""
    faults = job.get("faults", ())
    if not (answer.error or faults):
        return False
    from ..recovery.faults import LOSSES, classify  # PyTorch, which nothing else here needs

    lost = {kind.value for kind in LOSSES}
    return classify(RuntimeError(answer.error)) in LOSSES or any(fault["kind"] in lost for fault in faults)


def _write_input(folder: Path, name: str, content: bytes, *, anew: bool) -> None:
    """Writes an input file below the folder, whatever its name says.

    Args:
        anew: in place of one with other content; a prompt that runs may read that.

    Raises:
        ValueError: the name leads out of it.
    """
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ValueError(f"{name} leads out of ComfyUI's input folder, name a file below it.")
    if not file.exists() or (anew and not holds(file, content)):
        write_whole(file, content, lasting=False)


def _entries(answer: Answer) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Node id and description of each file that a prompt's nodes show."""
    for node_id, shown in answer.outputs.items():
        for values in shown.values():
            for entry in values if isinstance(values, list) else ():
                if isinstance(entry, dict) and {"filename", "type"} <= entry.keys():
                    yield node_id, entry


def _offers(node: Mapping[str, Any], need: Need) -> bool:
    """Whether a node, as ComfyUI describes it, takes a name: all where the input is no choice of a list."""
    for inputs in node.get("input", {}).values():
        if need.input in inputs:
            kind, *more = inputs[need.input]
            choices = kind if isinstance(kind, list) else more[0].get("options") if more else None
            return not isinstance(choices, list) or need.name in map(same_name, map(str, choices))
    return True


def _saved(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files that nodes saved, each with when, in ns."""
    for file in (folder / "output").rglob("*"):
        if file.is_file():
            yield file, file.stat().st_mtime_ns


def _files(folder: Path, answer: Answer, before: set[tuple[Path, int]]) -> Iterator[File]:
    """The files that a prompt's nodes made, read; what earlier prompts made is removed.

    ComfyUI names the files of the prompt before where it does not run a node again, so that they stay until then.

    Args:
        before: what was saved before the prompt; other files are results, too, that no node shows.
    """
    shown: set[Path] = set()
    for node_id, entry in _entries(answer):
        if entry["type"] in ("output", "temp"):
            file = folder / entry["type"] / entry.get("subfolder", "") / entry["filename"]
            # ComfyUI puts a folder of this name into what it is given for temporary files.
            file = file if file.exists() else folder / entry["type"] / file.relative_to(folder)
            shown.add(file)
            kept, subfolder = entry["type"] == "output", entry.get("subfolder", "")
            yield File(node_id, file.name, kept, file.read_bytes(), subfolder)
    for file, when in _saved(folder):
        if (file, when) not in before and file not in shown:
            subfolder = file.parent.relative_to(folder / "output").as_posix()
            yield File("", file.name, True, file.read_bytes(), "" if subfolder == "." else subfolder)
    for folder_of_results in (folder / "output", folder / "temp"):
        for file in folder_of_results.rglob("*"):
            if file.is_file() and file not in shown:
                file.unlink()


def _values(answer: Answer) -> dict[str, dict[str, Any]]:
    """What nodes show beside files, by node."""
    files = {id(entry) for _, entry in _entries(answer)}
    found: dict[str, dict[str, Any]] = {}
    for node_id, shown in answer.outputs.items():
        rest = {
            name: values
            for name, values in shown.items()
            if name not in ("animated", "xpu")
            and not (isinstance(values, list) and any(id(value) in files for value in values))
        }
        if rest:
            found[node_id] = rest
    return found
