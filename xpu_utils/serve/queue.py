"""Prompts that wait, in their order, each for a worker that has not refused it."""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from .pool import Member
from .requests import Wanted

SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
"""What ComfyUI shows of a prompt's extra data to nobody, and writes to no file."""


@dataclasses.dataclass(eq=False)
class Prompt:
    """A prompt that waits or runs: as text, which is a fifth of what its objects take."""

    id: str
    client_id: str
    number: float
    order: int
    """Among those of one number."""
    listed: str
    """As ComfyUI lists it: JSON of number, id, nodes, public extra data, outputs."""
    unlisted: Mapping[str, Any]
    """The rest of its extra data, and which nodes alone are wanted."""
    answer: asyncio.Future[Mapping[str, Any]]
    """What its client is answered: node_errors."""
    losses: list[str] = dataclasses.field(default_factory=list)
    accepted: bool = False
    """Whether the worker that has it now took it."""
    false_starts: int = 0
    refused_by: frozenset[Member] = frozenset()
    interrupted: bool = False

    @classmethod
    def of(cls, wanted: Wanted, *, number: float, order: int) -> Prompt:
        """From what a client sent. Of use on the event loop that runs."""
        data = wanted.extra["extra_data"]
        public = {name: value for name, value in data.items() if name not in SECRETS}
        if wanted.client_id:
            public["client_id"] = wanted.client_id
        outputs = wanted.extra.get("partial_execution_targets", [])
        listed = json.dumps([number, wanted.prompt_id, wanted.nodes, public, outputs])
        secret = {name: value for name, value in data.items() if name in SECRETS}
        unlisted = {**wanted.extra, "extra_data": secret}
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        return cls(wanted.prompt_id, wanted.client_id, number, order, listed, unlisted, answer)

    def for_worker(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its nodes, and what else a worker's ComfyUI is told."""
        _, _, nodes, public, _ = json.loads(self.listed)
        return nodes, {**self.unlisted, "extra_data": {**public, **self.unlisted["extra_data"]}, "prompt_id": self.id}


def _place(prompt: Prompt) -> tuple[float, int]:
    return prompt.number, prompt.order


class Queue:
    """Prompts that wait. Only being listed costs more where more of them wait."""

    def __init__(self) -> None:
        self._prompts: dict[str, Prompt] = {}
        self._groups: dict[frozenset[Member], list[Prompt]] = {}
        """By the workers that refused them, in order."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._prompts

    def listed(self) -> str:
        """JSON of all, in order."""
        return f"[{', '.join(prompt.listed for prompt in sorted(self._prompts.values(), key=_place))}]"

    def put(self, prompt: Prompt) -> None:
        self._prompts[prompt.id] = prompt
        bisect.insort(self._groups.setdefault(prompt.refused_by, []), prompt, key=_place)
        self.size_bytes += len(prompt.listed)

    def take(self, member: Member) -> Prompt | None:
        """The first one that a worker has not refused."""
        first = [group[0] for refused_by, group in self._groups.items() if member not in refused_by]
        return self._removed(min(first, key=_place)) if first else None

    def take_refused(self, members: Collection[Member]) -> list[Prompt]:
        """Those that all of these workers have refused."""
        groups = [group for refused_by, group in self._groups.items() if refused_by and refused_by.issuperset(members)]
        return [self._removed(prompt) for group in groups for prompt in list(group)]

    def take_out(self, prompt_ids: Collection[str] | None) -> list[Prompt]:
        """Those with these ids; all where none are given."""
        named = list(self._prompts) if prompt_ids is None else [name for name in prompt_ids if name in self]
        return [self._removed(self._prompts[name]) for name in dict.fromkeys(named)]

    def _removed(self, prompt: Prompt) -> Prompt:
        group = self._groups[prompt.refused_by]
        del group[bisect.bisect_left(group, _place(prompt), key=_place)]
        if not group:
            del self._groups[prompt.refused_by]
        self.size_bytes -= len(prompt.listed)
        return self._prompts.pop(prompt.id)
