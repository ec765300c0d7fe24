"""The folder of a batch: results under their names, and a manifest that a crash at any moment leaves whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..workers.files import holds, write_whole
from ..workers.folder import LOCK, alone_in
from ..workers.worker import File, Outcome
from .jobs import Job
from .workflow import SEEDS, BadJob

MANIFEST = "manifest.jsonl"
_FIELD = re.compile(r"\{([^{}]+)\}")
_UNFIT = re.compile(r"[^\w.,+=@ -]+")
LONGEST_PART = 80
"""Characters of a value in a file's name."""
LONGEST_NAME_BYTES = 220
"""Of a file's or a folder's name, which may have 255 with ending and number."""


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Results]:
    """The results in a folder, which is made, for one command at a time.

    Raises:
        FolderTaken: another command works in it.
        BadJob: its manifest is damaged.
        OSError: it cannot be written.
    """
    with alone_in(folder):
        yield Results(folder)


class Results:
    """What is done. Any thread may record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest = folder / MANIFEST
        self._lock = threading.Lock()
        lines = _whole_lines(self._manifest)
        finished = [line for line in lines if line["state"] == "done"]
        self.done = frozenset(line["key"] for line in finished)
        """Keys of the jobs that need not be done again."""
        self._taken = {MANIFEST, LOCK, *(name.casefold() for line in finished for name in line["files"])}
        """Names as systems compare them that do not tell cases apart."""

    def record(self, job: Job, outcome: Outcome, names: list[str], tried: tuple[str, ...]) -> None:
        """Writes a job's files, then the line that says that they are there.

        Args:
            names: of the files, in their order; a number is added to one that another file has.
            tried: what became of it on workers before.

        Raises:
            BadJob: a name leads out of the folder.
            OSError: the folder is full, or gone.
        """
        for name in names:
            if not (self.folder / name).resolve().is_relative_to(self.folder.resolve()):
                raise BadJob(f"{name} leads out of {self.folder}, name files below it with --name.")
        with self._lock:
            names = [self._free(name, file.content) for name, file in zip(names, outcome.files, strict=True)]
        for name, file in zip(names, outcome.files, strict=True):
            write_whole(self.folder / name, file.content)
        report = dataclasses.asdict(outcome.report)
        self._append(job, "done", {"files": names, "values": outcome.values, "tried": tried, **report})

    def _free(self, name: str, content: bytes) -> str:
        """The name, or one like it that no other file has; one that was written before a crash is the same file."""
        stem, ending, number, free = *os.path.splitext(name), 1, name
        while free.casefold() in self._taken or ((file := self.folder / free).exists() and not holds(file, content)):
            number += 1
            free = f"{stem}~{number}{ending}"
        self._taken.add(free.casefold())
        return free

    def give_up(self, job: Job, reason: str, tried: tuple[str, ...]) -> None:
        """Notes that a job was not done; the same command tries it again."""
        self._append(job, "failed", {"error": reason, "tried": tried})

    def _append(self, job: Job, state: str, what: Mapping[str, Any]) -> None:
        line = {"key": job.key, "number": job.number, "state": state, "settings": job.settings, **what}
        content = json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
        with self._lock:
            whole = self._manifest.stat().st_size if self._manifest.exists() else 0
            try:
                with self._manifest.open("ab") as stream:
                    stream.write(content.encode())
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError:
                if self._manifest.exists():  # a part of a line would spoil the next
                    os.truncate(self._manifest, whole)
                raise


def _whole_lines(manifest: Path) -> list[dict[str, Any]]:
    """The lines of a manifest; one that a crash cut off is taken out of the file."""
    content = manifest.read_bytes() if manifest.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(manifest, len(whole))
    try:
        return [json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1]]
    except ValueError as error:
        raise BadJob(f"{manifest} is damaged ({error}): name another folder with --out, or move it away.") from error


def check_pattern(pattern: str, job: Job) -> None:
    """Raises:
    BadJob: the pattern has a field that no job has, or leads out of the folder.
    """
    file_names(pattern, job, (), width=1)
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise BadJob(f"--name: {pattern} leads out of the folder, name files below it.")


def file_names(pattern: str, job: Job, files: tuple[File, ...], *, width: int) -> list[str]:
    """What a job's files are called: the pattern with its values, a number where there are several, their endings.

    Args:
        width: digits of the job's number.

    Raises:
        BadJob: the pattern has a field that this job has not.
    """
    seeds = [value for name, value in job.settings.items() if name.rpartition(".")[2] in SEEDS]
    fields = {"number": f"{job.number:0{width}d}", **({"seed": seeds[0]} if seeds else {}), **job.settings}

    def filled(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise BadJob(f"--name: {match[0]} is none of {', '.join(f'{{{name}}}' for name in fields)}.")
        return _UNFIT.sub("_", str(fields[match[1]]))[:LONGEST_PART].strip(" .") or "_"

    stem = "/".join(map(_short, _FIELD.sub(filled, pattern).split("/")))
    several = len(files) > 1
    return [
        f"{stem}{f'-{index}' if several else ''}{Path(file.name).suffix}" for index, file in enumerate(files, start=1)
    ]


def _short(name: str) -> str:
    return name.encode()[:LONGEST_NAME_BYTES].decode(errors="ignore")
