"""What became of prompts, as text, which takes as many bytes as it has: so many prompts and so many bytes at most."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from typing import Any

MOST = 10_000
"""As ComfyUI."""
MOST_BYTES = 256 << 20
"""A page's prompt with its workflow has 10 to 50 KB, some have megabytes."""


class History:
    """The prompts that ended last; their files stay."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._entries: collections.OrderedDict[str, str] = collections.OrderedDict()
        self.size_bytes = 0

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self._entries

    def add(self, prompt_id: str, listed: str, ended: Mapping[str, Any]) -> None:
        """Remembers a prompt, and forgets the oldest where that is too much.

        Args:
            listed: JSON of the prompt as it is listed.
            ended: outputs and status.
        """
        entry = f'{{"prompt": {listed}, {json.dumps(ended)[1:]}'
        self._entries[prompt_id] = entry
        self.size_bytes += len(entry)
        while len(self._entries) > 1 and (len(self._entries) > self._most or self.size_bytes > self._most_bytes):
            self._forget(next(iter(self._entries)))

    def entry(self, prompt_id: str) -> str:
        """JSON of one prompt by its id; empty where there is none."""
        return _object({prompt_id: self._entries[prompt_id]} if prompt_id in self else {})

    def listed(self, *, most: int | None, offset: int | None) -> str:
        """JSON of the prompts by their ids; the latest `most` unless an offset says where to begin."""
        if most is not None and (offset is None or offset < 0):
            offset = max(0, len(self._entries) - most)
        begin = max(0, offset or 0)
        return _object(dict(list(self._entries.items())[begin : None if most is None else begin + most]))

    def forget(self, prompt_ids: list[str] | None) -> None:
        """Takes prompts out; all where no ids are given."""
        for prompt_id in list(self._entries) if prompt_ids is None else prompt_ids:
            self._forget(prompt_id)

    def _forget(self, prompt_id: str) -> None:
        self.size_bytes -= len(self._entries.pop(prompt_id, ""))


def _object(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in entries.items()) + "}"
