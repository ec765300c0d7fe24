"""The queue on disk: a file for each prompt, from when it was taken until it ended."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..workers.files import write_whole
from .queue import SECRETS
from .requests import Refused, Wanted, refused, wanted

_NAME = re.compile(r"(\d{12})-([0-9a-f-]{36})\.(\d)")


@dataclasses.dataclass(frozen=True)
class Kept:
    """A prompt that had not ended."""

    wanted: Wanted
    order: int
    begun: int
    """How many times it had been given to a worker that may have ended of it."""


class Journal:
    """Names say a prompt's order, its id and how often it was begun; a file is what a client could send."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Args:
        say: is given a line where the folder cannot be written, or a file of it is damaged.

        Raises:
            OSError: the folder cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # prompts are their clients' own
        self._folder = folder
        self._say = say
        self._files: dict[str, Path] = {}
        self._closed = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="serve-journal")

    def kept(self) -> Iterator[Kept]:
        """What an earlier command left, in the order in which it was taken."""
        for part in self._folder.glob("*.part"):  # of a crash in the middle
            part.unlink()
        strange = []
        for file in sorted(self._folder.iterdir()):
            if (name := _NAME.fullmatch(file.name)) is None:
                strange.append(file.name)
                continue
            try:
                prompt = wanted(file.read_bytes())
                self._must_be_new(prompt.prompt_id, name[2])
            except (Refused, OSError) as error:
                reason = error.body["error"]["message"] if isinstance(error, Refused) else error.strerror
                self._say(f"{file} is damaged and left out: {reason}")
                continue
            self._files[prompt.prompt_id] = file
            yield Kept(prompt, int(name[1]), int(name[3]))
        if strange:
            self._say(f"{self._folder} holds what this version of serve does not know, left out: {', '.join(strange)}.")

    def _must_be_new(self, prompt_id: str, named: str) -> None:
        if prompt_id != named:
            raise refused(400, "invalid_prompt_id", f"It holds the prompt {prompt_id}.")
        if prompt_id in self._files:
            raise refused(400, "duplicate_prompt_id", f"{self._files[prompt_id].name} is of the same prompt.")

    async def keep(self, prompt: Wanted, *, number: float, order: int) -> None:
        """Returns when a prompt outlasts whatever happens to the machine. What is secret of it is left out.

        Raises:
            OSError: it cannot be written.
        """
        data = {name: value for name, value in prompt.extra["extra_data"].items() if name not in SECRETS}
        extra = {**prompt.extra, "extra_data": data}
        body = {"prompt": prompt.nodes, **extra, "prompt_id": prompt.prompt_id, "client_id": prompt.client_id}
        file = self._folder / f"{order:012}-{prompt.prompt_id}.0"
        text = json.dumps({**body, "number": number}).encode()
        write = functools.partial(write_whole, file, text, private=True)
        await asyncio.get_running_loop().run_in_executor(self._writer, write)
        self._files[prompt.prompt_id] = file

    def mark(self, prompt_id: str, begun: int) -> None:
        """Notes how often a prompt was begun."""
        file = self._files[prompt_id].with_suffix(f".{begun}")
        if self._closed or file == self._files[prompt_id]:
            return
        try:
            self._files[prompt_id] = self._files[prompt_id].replace(file)
        except OSError as error:
            self._complain(error)

    def end(self, prompt_id: str) -> None:
        """A prompt need not be done any more."""
        file = self._files.pop(prompt_id, None)
        if file and not self._closed:
            self._remove([file])

    async def end_all(self, prompt_ids: Iterable[str]) -> None:
        """As `end`, of many: that may take seconds."""
        files = [self._files.pop(prompt_id) for prompt_id in prompt_ids]
        await asyncio.to_thread(self._remove, files)

    def close(self) -> None:
        """Leaves all as it is for the next command, whatever becomes of workers that end with this one."""
        self._closed = True

    def _remove(self, files: Iterable[Path]) -> None:
        for file in files:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        self._say(f"{self._folder} cannot be written ({error.strerror}): the next start may do prompts again.")
