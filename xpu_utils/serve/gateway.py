"""The queue and the history of one address: every prompt goes to an idle worker, and to another one if that is lost."""

from __future__ import annotations

import asyncio
import bisect
import collections
import dataclasses
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ..workers.cluster import in_its_words
from ..workers.server import ServerLost
from ..workers.setup import CannotStart
from ..workers.worker import Outcome
from .clients import Clients, event
from .pool import Member, Pool
from .requests import Refused, Wanted, refused
from .store import Store, shown

LOSSES = 2
"""Workers that a prompt may take with it before it is given up: one may have been broken, two say that it is the
prompt."""
FALSE_STARTS = 5
"""Workers that may be lost before they took it: that was hardly the prompt."""
WAITING_BYTES = 512 << 20
"""Of prompts that wait."""
HISTORY = 1000
"""Prompts that are remembered; their files stay."""
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
"""What ComfyUI does not show of a prompt's extra data either."""
_LAST = frozenset(("executed", "execution_success", "execution_error", "execution_interrupted"))
"""Events that are sent when the files that they speak of, or the history, are here."""


@dataclasses.dataclass(eq=False)
class Prompt:
    """A prompt that waits or runs."""

    number: float
    wanted: Wanted
    answer: asyncio.Future[Mapping[str, Any]]
    """What its client is answered: node_errors."""
    losses: list[str] = dataclasses.field(default_factory=list)
    accepted: bool = False
    """Whether the worker that has it now took it."""
    false_starts: int = 0
    refused_by: list[Member] = dataclasses.field(default_factory=list)
    interrupted: bool = False

    @property
    def id(self) -> str:
        return self.wanted.prompt_id

    def listed(self) -> list[Any]:
        """As ComfyUI lists it."""
        extra = {name: value for name, value in self.wanted.extra["extra_data"].items() if name not in SECRETS}
        if self.wanted.client_id:
            extra["client_id"] = self.wanted.client_id
        outputs = self.wanted.extra.get("partial_execution_targets", [])
        return [self.number, self.id, self.wanted.nodes, extra, outputs]


class Gateway:
    """All prompts of one address. Of one event loop."""

    def __init__(self, ray: ModuleType, pool: Pool, store: Store, clients: Clients) -> None:
        self._ray = ray
        self._pool = pool
        self._store = store
        self._clients = clients
        self._waiting: list[Prompt] = []
        self._running: dict[str, tuple[Prompt, Member]] = {}
        self._history: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        pool.demand = lambda: len(self._waiting) + len(self._running)
        pool.on_change = self._assign

    async def submit(self, wanted: Wanted) -> dict[str, Any]:
        """Queues a prompt; answers as soon as its worker took it, or at once where all are busy.

        Raises:
            Refused: its worker's ComfyUI refuses it, its id is taken, or too much waits.
        """
        if self._knows(wanted.prompt_id):
            raise refused(400, "invalid_prompt_id", "A prompt with this prompt_id is here already")
        if sum(prompt.wanted.size_bytes for prompt in self._waiting) + wanted.size_bytes > WAITING_BYTES:
            raise refused(429, "queue_full", "Too many prompts are waiting, send this one again later")
        number = wanted.number if wanted.number is not None else -self._count if wanted.front else self._count
        self._count += 1
        prompt = Prompt(number, wanted, asyncio.get_running_loop().create_future())
        self._put(prompt)
        if prompt.id not in self._running:
            _answer(prompt, {})
        node_errors = await asyncio.shield(prompt.answer)
        return {"prompt_id": prompt.id, "number": number, "node_errors": node_errors}

    def status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": len(self._waiting) + len(self._running)}}

    def queue(self) -> dict[str, Any]:
        running = [prompt.listed() for prompt, _ in self._running.values()]
        return {"queue_running": running, "queue_pending": [prompt.listed() for prompt in self._waiting]}

    def take_out(self, prompt_ids: list[str] | None) -> None:
        """Takes prompts out of the queue that have not begun; all where no ids are given."""
        self._waiting = [prompt for prompt in self._waiting if not (prompt_ids is None or prompt.id in prompt_ids)]
        self._tell()

    async def interrupt(self, prompt_id: str | None) -> None:
        """Ends a prompt that runs; all that run where no id is given."""
        running = [(prompt, member) for prompt, member in self._running.values() if prompt_id in (None, prompt.id)]
        for prompt, _ in running:
            prompt.interrupted = True
        await asyncio.gather(*(self._pool.interrupt(member) for _, member in running))

    def history(self, *, most: int | None, offset: int | None) -> dict[str, Any]:
        """The prompts that ended; the latest `most` unless an offset says where to begin."""
        entries = list(self._history.items())
        if most is not None and (offset is None or offset < 0):
            offset = max(0, len(entries) - most)
        begin = max(0, offset or 0)
        return dict(entries[begin : None if most is None else begin + most])

    def entry(self, prompt_id: str) -> dict[str, Any]:
        """The history of one prompt, empty where there is none."""
        return {prompt_id: self._history[prompt_id]} if prompt_id in self._history else {}

    def forget(self, prompt_ids: list[str] | None) -> None:
        """Takes prompts out of the history; all where no ids are given. Their files stay."""
        for prompt_id in list(self._history) if prompt_ids is None else prompt_ids:
            self._history.pop(prompt_id, None)

    def _knows(self, prompt_id: str) -> bool:
        waits = any(prompt.id == prompt_id for prompt in self._waiting)
        return waits or prompt_id in self._running or prompt_id in self._history

    def _put(self, prompt: Prompt) -> None:
        bisect.insort(self._waiting, prompt, key=lambda other: other.number)
        self._assign()
        self._pool.wake()
        self._tell()

    def _tell(self) -> None:
        self._clients.send_all(event("status", {"status": self.status()}))

    def _assign(self) -> None:
        """Gives waiting prompts to idle workers."""
        idle = self._pool.idle()
        for prompt in [prompt for prompt in self._waiting if idle or prompt.refused_by]:
            if not (idle or prompt.refused_by):  # thousands may wait
                continue
            left = [member for member in self._pool.ready() if member not in prompt.refused_by]
            member = next((member for member in idle if member in left), None)
            if member is not None:
                idle.remove(member)
                self._waiting.remove(prompt)
                self._running[prompt.id] = (prompt, member)
                self._pool.busy(member, prompt.id)
                task = asyncio.create_task(self._run(prompt, member))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif prompt.refused_by and not left:  # those that might have taken it are gone
                self._waiting.remove(prompt)
                self._fail(prompt, "the workers that are left refuse it")

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
        wanted = prompt.wanted
        last: list[dict[str, Any]] = []
        try:
            files = dict(await asyncio.to_thread(lambda: list(self._store.inputs_of(wanted.nodes))))
            async for said in self._pool.run(member, wanted.nodes, {**wanted.extra, "prompt_id": prompt.id}, files):
                if isinstance(said, Outcome):
                    for file in () if self._may_repeat(prompt, said) else said.files:
                        await asyncio.to_thread(self._store.keep, prompt.id, file)
                    return said, last
                if isinstance(said, bytes):
                    self._clients.send(wanted.client_id, said)
                    continue
                message = json.loads(said)
                kind, data = message["type"], message["data"]
                if kind == "accepted":
                    prompt.accepted = True
                    _answer(prompt, data.get("node_errors") or {})
                elif last or kind in _LAST or (kind == "executing" and data.get("node") is None):
                    last.append(message)
                elif kind != "status":  # the worker's own
                    self._clients.send(wanted.client_id, said)
            raise ServerLost("The worker ended.")
        finally:
            del self._running[prompt.id]

    def _may_repeat(self, prompt: Prompt, outcome: Outcome) -> bool:
        """Whether another worker may do what this one could not."""
        lost = bool(outcome.error) and outcome.device_lost
        return lost and not prompt.interrupted and len(prompt.losses) + 1 < LOSSES

    def _lost(self, prompt: Prompt, reason: str) -> None:
        """A worker was lost: the prompt is not finished, and is repeated unless it is likely to be the cause."""
        if prompt.accepted:
            prompt.losses.append(reason)
        else:
            prompt.false_starts += 1
        if prompt.interrupted:
            self._fail(prompt, "it was interrupted, and its worker with it")
        elif len(prompt.losses) < LOSSES and prompt.false_starts < FALSE_STARTS:
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
            history = outcome.history
            outputs = {node: shown(entries, prompt.id) for node, entries in history["outputs"].items()}
            self._record(prompt, {**history, "outputs": outputs})
            for message in last:
                data = message["data"]
                if isinstance(data.get("output"), dict):
                    data = {**data, "output": shown(data["output"], prompt.id)}
                self._clients.send(prompt.wanted.client_id, event(message["type"], data))

    def _refused(self, prompt: Prompt, member: Member, outcome: Outcome) -> None:
        """Another worker may have what this one lacks, such as a model."""
        prompt.refused_by.append(member)
        if any(other not in prompt.refused_by for other in self._pool.ready()):
            self._put(prompt)
            if prompt.id not in self._running:
                _answer(prompt, {})
        elif prompt.answer.done():
            self._fail(prompt, outcome.error)
        else:
            prompt.answer.set_exception(Refused(400, outcome.refusal))

    def _fail(self, prompt: Prompt, reason: str) -> None:
        """Records a prompt that no worker could say anything of, in ComfyUI's form."""
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
        self._clients.send(prompt.wanted.client_id, event("execution_error", said))
        self._clients.send(prompt.wanted.client_id, event("executing", {"node": None, "prompt_id": prompt.id}))

    def _record(self, prompt: Prompt, history: Mapping[str, Any]) -> None:
        self._history[prompt.id] = {**history, "prompt": prompt.listed()}
        while len(self._history) > HISTORY:
            self._history.popitem(last=False)
        _answer(prompt, {})


def _answer(prompt: Prompt, node_errors: Mapping[str, Any]) -> None:
    if not prompt.answer.done():
        prompt.answer.set_result(node_errors)
