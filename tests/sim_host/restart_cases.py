"""What a process makes of a queue that one before it has kept, by `worker.py`."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import execution
import folder_paths
import nodes
from comfy.cli_args import args
from server import PromptServer

from xpu_utils.host.recovery import restart, stuck

NODES = {"1": {"class_type": next(iter(nodes.NODE_CLASS_MAPPINGS)), "inputs": {}}}


def queue_item(number: int, prompt_id: str, **extra: Any) -> tuple[Any, ...]:
    """As this host's server queues it."""
    secret = ({},) if "process_item" in execution.PromptQueue.task_done.__code__.co_varnames else ()
    return (number, prompt_id, NODES, extra, ["1"], *secret)


@contextmanager
def started() -> Iterator[Any]:
    """A server as far as a restart needs one, with a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_user_directory(folder)
        server: Any = types.SimpleNamespace(
            number=0, sockets={}, app=types.SimpleNamespace(on_startup=[]), queue_updated=lambda: None
        )
        server.prompt_queue = execution.PromptQueue(server)
        server.folder, server.file = Path(folder), Path(folder) / f"xpu-nodes-queue-{args.port}.json"
        with mock.patch.object(PromptServer, "instance", server), mock.patch.object(stuck, "look_after"):
            yield server


def listen(server: Any) -> list[str]:
    """The prompts in the queue once it listens and has queued what was kept, in their order."""

    async def begin() -> None:
        restart.install_restart()
        for signal in server.app.on_startup:
            await signal(server.app)
        await asyncio.gather(*restart._tasks)

    restart._tasks.clear()
    asyncio.run(begin())
    return [item[1] for item in sorted(server.prompt_queue.queue, key=lambda item: item[:2])]


def left(server: Any) -> list[str]:
    return sorted(path.name.removeprefix(server.file.stem) for path in server.folder.iterdir())


def written() -> list[list[Any]]:
    return [restart._written(queue_item(number, prompt_id)) for number, prompt_id in enumerate("ab")]


def damaged() -> list[str]:
    good = written()[0]
    broken: list[Any] = [None, {}, {"a": 1}, [1], [{}], [[]], "x", [good[:1]], [good[:3]], [[*good, {}]]]
    broken += [
        [[*good[:2], None, *good[3:]]],
        [[*good[:2], {"client_id": []}, *good[3:]]],
        [[*good[:3], ["2"], *good[4:]]],
    ]
    broken += [[[good[0], prompt, *good[2:]]] for prompt in ([], {"1": 1}, {"1": {"class_type": "?", "inputs": {}}})]
    if len(good) > 4:
        broken += [[good[:4]], [[*good[:4], None]]]
    return [*map(json.dumps, broken), json.dumps([good, []]), "{bad", "[" * 100000, "\ud800"]


def case_what_is_damaged_is_refused() -> Any:
    """Those that were not."""
    accepted = []
    for text in damaged():
        with started() as server:
            server.file.write_text(text, encoding="utf-8", errors="surrogatepass")
            if listen(server) or left(server) != [".json.refused"]:
                accepted.append(text[:60])
    return accepted


def case_kept_prompts_come_in_order_and_once() -> Any:
    with started() as server:
        server.prompt_queue.put(queue_item(2, "b", client_id=None))
        server.prompt_queue.put(queue_item(-1, "a"))
        kept = restart.keep()
        server.prompt_queue = execution.PromptQueue(server)
        return {"kept": kept, "queued": listen(server), "number": server.number, "left": left(server)}


def case_a_process_that_ended_before_it_had_queued_them() -> Any:
    """Its file is used again, before that of a later process, and no prompt of both is queued twice."""
    first, second = written()
    with started() as server:
        server.file.with_suffix(".taken").write_text(json.dumps([first]))
        alone = listen(server)
        server.prompt_queue = execution.PromptQueue(server)
        server.app.on_startup.clear()
        server.file.with_suffix(".taken").write_text(json.dumps([second]))
        server.file.write_text(json.dumps([first, second]))
        return {"alone": alone, "both": listen(server), "left": left(server)}


def case_until_they_are_queued_the_file_is_there() -> Any:
    with started() as server:
        server.file.write_text(json.dumps(written()))
        with mock.patch.object(server.prompt_queue, "put", side_effect=RuntimeError("the process ends")):
            try:
                listen(server)
            except RuntimeError:
                return left(server)


def case_a_link_is_not_written_through() -> Any:
    with started() as server:
        victim = server.folder / "victim"
        victim.write_text("precious")
        for link in (server.file, server.file.with_suffix(".part"), server.file.with_suffix(".taken")):
            link.symlink_to(victim)
        server.prompt_queue.put(queue_item(0, "a"))
        restart.keep()
        return [victim.read_text(), server.file.is_symlink()]


def case_a_restart_that_fails_leaves_no_file() -> Any:
    with started() as server, mock.patch.object(restart, "begin_anew", side_effect=OSError("no such program")):
        server.prompt_queue.put(queue_item(0, "a"))
        with mock.patch.object(restart.logging, "error") as said:
            restart.restart()
        return [left(server), "could not be restarted" in said.call_args.args[0]]


def case_prompts_wait_for_a_thread_that_has_ended() -> Any:
    """Why a restart helps: when prompts wait for it, and when none do any more."""
    fails = threading.Event()

    def prompt_worker() -> None:
        fails.wait(60)

    def reasons(are_there: bool) -> str:
        deadline = time.monotonic() + 60
        while bool(restart.reason()) != are_there and time.monotonic() < deadline:
            time.sleep(0.01)
        return restart.reason()

    with started() as server, mock.patch.object(stuck, "LOOK_SECONDS", 0.01):
        threading.Thread(target=prompt_worker, daemon=True).start()
        looking = threading.Thread(target=stuck._look, args=(server,), daemon=True)
        with mock.patch.object(stuck, "_position", side_effect=stuck._position) as position:
            looking.start()
            while position.call_count < 3:  # it has nothing to do
                time.sleep(0.01)
        fails.set()
        server.prompt_queue.put(queue_item(0, "a"))
        said = [reasons(True)]
        server.prompt_queue.wipe_queue()
        said.append(reasons(False))
        with mock.patch.object(stuck, "_position", side_effect=SystemExit):
            looking.join(60)
        return said


def case_the_end_of_the_look_out_is_said() -> Any:
    with (
        mock.patch.object(stuck, "_position", side_effect=KeyError),
        mock.patch.object(stuck, "LOOK_SECONDS", 0),
        mock.patch.object(stuck.logging, "exception") as said,
    ):
        looking = threading.Thread(target=stuck._look, args=(None,))
        looking.start()
        looking.join(60)
    return [looking.is_alive(), said.call_count]
