"""The queue and the history of one address: every prompt goes to an idle worker, and to another one if that is lost."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ..workers.cluster import in_its_words
from ..workers.server import ServerLost
from ..workers.setup import CannotStart
from ..workers.worker import ATTEMPTS, File, Outcome
from .clients import Clients, event
from .history import History
from .journal import Journal
from .pool import Member, Pool
from .queue import Prompt, Queue
from .requests import Refused, Wanted, refused
from .store import Store, shown

FALSE_STARTS = 5
"""Workers that may be lost before they took a prompt: that was hardly the prompt."""
WAITING_BYTES = 512 << 20
"""Of prompts that wait."""
ROOM_SECONDS = 10.0
"""How often room for results is looked for where the disk is full."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LAST = frozenset(("executed", "execution_success", "execution_error", "execution_interrupted"))
"""Events that are sent when the files that they speak of, or the history, are here."""


class Gateway:
    """All prompts of one address. Of one event loop."""

    def __init__(
        self,
        ray: ModuleType,
        pool: Pool,
        store: Store,
        clients: Clients,
        journal: Journal,
        say: Callable[[str], None],
    ) -> None:
        """Args:
        say: is given a line when the disk is full.
        """
        self._ray = ray
        self._pool = pool
        self._store = store
        self._clients = clients
        self._journal = journal
        self._say = say
        self._arriving: set[str] = set()
        """Ids of prompts that are being written down."""
        self._checking = asyncio.Lock()
        """Of one prompt at a time: its input files are in memory."""
        self._queue = Queue()
        self._running: dict[str, tuple[Prompt, Member]] = {}
        self.history = History()
        self._count = 0
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        pool.demand = self._left
        pool.on_change = self._assign

    def take_up(self) -> int:
        """Queues what the command before this one had not done; answers how many prompts."""
        for kept in self._journal.kept():
            wanted = kept.wanted
            self._count = max(self._count, kept.order + 1)
            prompt = Prompt.of(wanted, number=wanted.number or 0.0, order=kept.order)
            prompt.losses = ["a worker or serve ended while it ran"] * kept.begun
            _answer(prompt, {})
            if kept.begun:
                self._store.clear(prompt.id)
            if kept.begun < ATTEMPTS:
                self._queue.put(prompt)
            else:
                self._fail(prompt, "it is given up, workers or serve ended twice while it ran")
        return len(self._queue)

    def stop(self) -> None:
        """Has those that run done again by the next command, with nothing held against them. Before workers end."""
        self._stopped = True
        for prompt, _ in self._running.values():
            if not prompt.interrupted:
                self._journal.mark(prompt.id, len(prompt.losses))
            _answer(prompt, {})
        self._journal.close()

    async def submit(self, wanted: Wanted) -> dict[str, Any]:
        """Queues a prompt; answers as soon as its worker took it, or where all are busy, as soon as one would take it.

        Raises:
            Refused: every worker's ComfyUI refuses it, its id is taken, or too much waits.
        """
        if self._knows(wanted.prompt_id):
            raise refused(400, "invalid_prompt_id", "A prompt with this prompt_id is here already")
        if self._queue.size_bytes + wanted.size_bytes > WAITING_BYTES:
            raise refused(429, "queue_full", "Too many prompts are waiting, send this one again later")
        order, self._count = self._count, self._count + 1
        number = wanted.number if wanted.number is not None else -order if wanted.front else order
        prompt = Prompt.of(wanted, number=number, order=order)
        self._arriving.add(prompt.id)
        try:
            if len(self._arriving) > len(self._pool.idle()):
                async with self._checking:
                    await self._check(prompt)
            await self._journal.keep(wanted, number=number, order=order)
        except OSError as error:
            raise refused(507, "no_room", f"The prompt cannot be kept: {error.strerror}.") from error
        finally:
            self._arriving.remove(prompt.id)
        self._put(prompt)
        if prompt.id not in self._running:
            _answer(prompt, {})
        node_errors = await asyncio.shield(prompt.answer)
        return {"prompt_id": prompt.id, "number": number, "node_errors": node_errors}

    async def _check(self, prompt: Prompt) -> None:
        """Has workers that are busy say whether they would take a prompt, until one would.

        Raises:
            Refused: none of them would.
        """
        nodes, extra = prompt.for_worker()
        files = await asyncio.to_thread(lambda: dict(self._store.inputs_of(nodes)))
        refusal: Mapping[str, Any] = {}
        for member in self._pool.ready():
            refusal = await self._pool.refusal(member, nodes, extra, files)
            if not refusal:
                return
        if refusal:
            raise Refused(400, refusal)

    def status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self._left()}}

    def queue(self) -> str:
        """JSON as ComfyUI answers it."""
        running = ", ".join(prompt.listed for prompt, _ in self._running.values())
        return f'{{"queue_running": [{running}], "queue_pending": {self._queue.listed()}}}'

    async def take_out(self, prompt_ids: list[str] | None) -> None:
        """Takes prompts out of the queue that have not begun; all where no ids are given."""
        gone = self._queue.take_out(prompt_ids)
        self._tell()
        await self._journal.end_all([prompt.id for prompt in gone])

    async def interrupt(self, prompt_id: str | None) -> None:
        """Ends a prompt that runs; all that run where no id is given."""
        running = [(prompt, member) for prompt, member in self._running.values() if prompt_id in (None, prompt.id)]
        for prompt, _ in running:
            prompt.interrupted = True
            self._journal.end(prompt.id)  # whatever becomes of it, it is not wanted again
        await asyncio.gather(*(self._pool.interrupt(member) for _, member in running))

    def _left(self) -> int:
        return len(self._queue) + len(self._running)

    def _knows(self, prompt_id: str) -> bool:
        return any(prompt_id in known for known in (self._queue, self._running, self.history, self._arriving))

    def _put(self, prompt: Prompt) -> None:
        self._journal.mark(prompt.id, len(prompt.losses))
        self._queue.put(prompt)
        self._assign()
        self._pool.wake()
        self._tell()

    def _tell(self) -> None:
        self._clients.send_all(event("status", {"status": self.status()}))

    def _assign(self) -> None:
        """Gives waiting prompts to idle workers."""
        if self._stopped:
            return
        for member in self._pool.idle():
            prompt = self._queue.take(member)
            if prompt is not None:
                self._begin(prompt, member)
        for prompt in self._queue.take_refused(self._pool.ready()):  # those that might have taken it are gone
            self._fail(prompt, "the workers that are left refuse it")

    def _begin(self, prompt: Prompt, member: Member) -> None:
        self._running[prompt.id] = (prompt, member)
        self._pool.busy(member, prompt.id)
        self._journal.mark(prompt.id, len(prompt.losses) + 1)
        task = asyncio.create_task(self._run(prompt, member))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, prompt: Prompt, member: Member) -> None:
        """Has a worker run a prompt, and records what became of it."""
        prompt.accepted = False
        try:
            outcome, last = await self._work(prompt, member)
            self._ended(prompt, member, outcome, last)
        except ServerLost as error:
            self._lost(prompt, f"{member.place}: {in_its_words(error)}")
        except (CannotStart, self._ray.exceptions.RayError) as error:
            self._pool.drop(member, in_its_words(error))
            self._lost(prompt, f"{member.place}: {in_its_words(error)}")
        except OSError as error:
            self._fail(prompt, f"its files cannot be kept: {error.strerror}")
        except Refused as refusal:  # a name of a file that another system, or nobody, could read
            self._fail(prompt, f"its files cannot be kept: {refusal.body['error']['message']}")
        except Exception as error:
            self._fail(prompt, f"serve itself failed ({type(error).__name__}), its log says where")
            raise
        finally:
            self._pool.free(member)
            self._assign()
            self._tell()

    async def _work(self, prompt: Prompt, member: Member) -> tuple[Outcome, list[dict[str, Any]]]:
        """The outcome, its files kept, and the events to send when it is recorded.

        Raises:
            ServerLost, CannotStart, ray.exceptions.RayError: the worker did not finish it.
            OSError: its files cannot be read or written.
            Refused: their names are none that can be kept.
        """
        nodes, extra = prompt.for_worker()
        last: list[dict[str, Any]] = []
        try:
            files = await asyncio.to_thread(lambda: dict(self._store.inputs_of(nodes)))
            async for said in self._pool.run(member, nodes, extra, files):
                if isinstance(said, Outcome):
                    if not self._may_repeat(prompt, said):
                        await self._keep(prompt, said.files)
                    return said, last
                if isinstance(said, bytes):
                    self._clients.send(prompt.client_id, said)
                    continue
                message = json.loads(said)
                kind = message["type"]
                data = message["data"] if isinstance(message["data"], dict) else {}  # a node may send anything
                if kind == "accepted":
                    prompt.accepted = True
                    _answer(prompt, data.get("node_errors") or {})
                elif last or kind in _LAST or (kind == "executing" and data.get("node") is None):
                    last.append(message)
                elif kind != "status":  # the worker's own
                    self._clients.send(prompt.client_id, said)
            raise ServerLost("The worker ended.")
        finally:
            del self._running[prompt.id]

    async def _keep(self, prompt: Prompt, files: Sequence[File]) -> None:
        """Keeps what a prompt made; where the disk is full, when there is room: its worker is given nothing until then.

        Raises:
            OSError: it cannot be written, for another reason or until it was interrupted.
            Refused: a name is none that can be kept.
        """
        for tries in itertools.count():
            try:
                for file in files:
                    await asyncio.to_thread(self._store.keep, prompt.id, file)
                return
            except OSError as error:
                if error.errno not in _FULL or prompt.interrupted:
                    raise
                if not tries:
                    self._journal.mark(prompt.id, len(prompt.losses))  # it ended
                    self._say(f"The disk is full: the worker that did {prompt.id} waits until its files have room.")
            await asyncio.sleep(ROOM_SECONDS)

    def _may_repeat(self, prompt: Prompt, outcome: Outcome) -> bool:
        """Whether another worker may do what this one could not."""
        lost = bool(outcome.error) and outcome.device_lost
        return lost and not prompt.interrupted and len(prompt.losses) + 1 < ATTEMPTS

    def _lost(self, prompt: Prompt, reason: str) -> None:
        """A worker was lost: the prompt is not finished, and is repeated unless it is likely to be the cause."""
        if self._stopped:
            return
        if prompt.accepted:
            prompt.losses.append(reason)
        else:
            prompt.false_starts += 1
        if prompt.interrupted:
            self._fail(prompt, "it was interrupted, and its worker with it")
        elif len(prompt.losses) < ATTEMPTS and prompt.false_starts < FALSE_STARTS:
            self._put(prompt)
            _answer(prompt, {})
        else:
            self._fail(prompt, f"it is given up, workers were lost: {'; '.join(prompt.losses) or reason}")

    def _ended(self, prompt: Prompt, member: Member, outcome: Outcome, last: list[dict[str, Any]]) -> None:
        if outcome.refusal:
            self._refused(prompt, member, outcome)
        elif self._may_repeat(prompt, outcome):
            self._lost(prompt, f"{member.place}: {outcome.error}")
        else:
            ended = {name: value for name, value in outcome.history.items() if name != "prompt"}
            outputs = {node: shown(entries, prompt.id) for node, entries in ended["outputs"].items()}
            self._record(prompt, {**ended, "outputs": outputs})
            for message in last:
                data = message["data"]
                if isinstance(data, dict) and isinstance(data.get("output"), dict):
                    data = {**data, "output": shown(data["output"], prompt.id)}
                self._clients.send(prompt.client_id, event(message["type"], data))

    def _refused(self, prompt: Prompt, member: Member, outcome: Outcome) -> None:
        """Another worker may have what this one lacks, such as a model."""
        prompt.refused_by |= {member}
        if not prompt.interrupted and any(other not in prompt.refused_by for other in self._pool.ready()):
            self._put(prompt)
            if prompt.id not in self._running:
                _answer(prompt, {})
        elif prompt.answer.done():
            self._fail(prompt, outcome.error)
        else:
            self._journal.end(prompt.id)
            prompt.answer.set_exception(Refused(400, outcome.refusal))

    def _fail(self, prompt: Prompt, reason: str) -> None:
        """Records a prompt that no worker could say anything of, in ComfyUI's form."""
        if self._stopped:
            return
        said = {
            "prompt_id": prompt.id,
            "node_id": "",
            "node_type": "",
            "executed": [],
            "traceback": [],
            "exception_message": f"The prompt failed: {reason}",
            "exception_type": "WorkersLost",
            "current_inputs": {},
            "current_outputs": [],
        }
        status = {"status_str": "error", "completed": False, "messages": [["execution_error", said]]}
        self._record(prompt, {"outputs": {}, "status": status, "meta": {}})
        self._clients.send(prompt.client_id, event("execution_error", said))
        self._clients.send(prompt.client_id, event("executing", {"node": None, "prompt_id": prompt.id}))

    def _record(self, prompt: Prompt, ended: Mapping[str, Any]) -> None:
        self._journal.end(prompt.id)  # its files are kept: after this a crash does not repeat it
        self.history.add(prompt.id, prompt.listed, ended)
        _answer(prompt, {})


def _answer(prompt: Prompt, node_errors: Mapping[str, Any]) -> None:
    if not prompt.answer.done():
        prompt.answer.set_result(node_errors)
