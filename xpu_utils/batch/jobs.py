"""The jobs of a batch: a table's rows, each with every seed."""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..workers.worker import Need, is_model, same_name
from .workflow import BadJob, Workflow

_RANGE = re.compile(r"(\d{1,20})(?:\.\.(\d{1,20}))?")
MOST_SEEDS = 1_000_000
_PLACE = re.compile(r" \[input\]$")
"""What ComfyUI may put behind a file's name."""
LONGEST_NAME = 1024


@dataclasses.dataclass(frozen=True)
class Job:
    """One prompt to be done once."""

    number: int
    """Counted from 1."""
    key: str
    """The same for the same workflow, values and input files, in whatever order."""
    settings: Mapping[str, Any]
    """ "NODE.input", with the node's id -> its value."""
    files: Mapping[str, Path]
    """Names of input files, below ComfyUI's input folder -> where they are here."""
    needs: frozenset[Need]
    """Texts that may be files of models."""

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"job {self.number}" + (f" ({values})" if values else "")


def seeds_of(text: str) -> list[int]:
    """ "1..100", "7", "1..10,42" as numbers.

    Raises:
        BadJob: it is nothing like that.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise BadJob(f"--seeds: {part!r} is neither a number nor a range such as 1..100.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise BadJob(f"--seeds: {part} holds no number, give the smaller one first.")
        if last - first + len(found) >= MOST_SEEDS:
            raise BadJob(f"--seeds: {text} has more than {MOST_SEEDS:,} numbers, begin a batch for each part of them.")
        found += range(first, last + 1)
    return found


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a table, by column; empty cells are left as the workflow has them.

    Raises:
        BadJob: it cannot be read, or is neither CSV nor JSON Lines.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".csv":
                rows: list[Any] = list(csv.DictReader(lines, strict=True))
            else:
                rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise BadJob(f"{file} cannot be read as a table ({error}), name a .csv or .jsonl file.") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or None in row or None in row.values():
            raise BadJob(f"{file}: row {number} does not have the columns of the table.")
    if not rows:
        raise BadJob(f"{file} has no rows, leave --table out where no job has values of its own.")
    return [{name: value for name, value in row.items() if value != ""} for row in rows]


def make_jobs(
    workflow: Workflow,
    *,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    seeds: Iterable[int] = (),
    folders: Sequence[Path] = (),
) -> list[Job]:
    """All jobs: each row with each seed, over the settings that all have.

    Args:
        folders: where input files are looked for, the first first.

    Raises:
        BadJob: a value cannot be put into the workflow.
    """
    every = list(seeds)
    names = workflow.seeds() if every else []
    drawn = [dict.fromkeys(names, seed) for seed in every] or [{}]
    inputs = _Inputs(folders)
    digest = hashlib.sha256(json.dumps(workflow.nodes, sort_keys=True).encode()).hexdigest()
    met: collections.Counter[str] = collections.Counter()
    needed: dict[frozenset[Need], frozenset[Need]] = {}
    jobs: list[Job] = []
    for row in rows or ({},):
        values = {**_resolved(workflow, settings), **_resolved(workflow, row)}
        if twice := values.keys() & set(names):
            raise BadJob(f"{' and '.join(sorted(twice))} would be set by --seeds too, leave one of both out.")
        for seed in drawn:
            chosen = {**values, **seed}
            texts = list(workflow.texts(chosen))
            files = dict(inputs.found(text for _, _, text in texts))
            contents = {name: inputs.digest(path) for name, path in files.items()}
            said = json.dumps([digest, chosen, contents], sort_keys=True)
            met[said] += 1
            needs = frozenset(Need(node, name, same_name(text)) for node, name, text in texts if is_model(text))
            key = hashlib.sha256(f"{said}{met[said]}".encode()).hexdigest()[:16]
            jobs.append(Job(len(jobs) + 1, key, chosen, files, needed.setdefault(needs, needs)))
    return jobs


def _resolved(workflow: Workflow, values: Mapping[str, Any]) -> dict[str, Any]:
    return {".".join(workflow.setting(name)): workflow.value(name, value) for name, value in values.items()}


class _Inputs:
    """The input files of a batch, each read once."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._paths: dict[str, Path | None] = {}
        self._digests: dict[Path, str] = {}

    def found(self, texts: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """Those texts that name a file below one of the folders, which is no model's."""
        for text in texts:
            name = _PLACE.sub("", text)
            if len(name) > LONGEST_NAME or "\n" in name or is_model(name):
                continue
            if name not in self._paths:
                self._paths[name] = self._path(name)
            path = self._paths[name]
            if path is not None:
                yield name, path

    def _path(self, name: str) -> Path | None:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:  # the worker's own, if it is a file
            return None
        for folder in self._folders:
            try:
                path = (folder / name).resolve()
                if path.is_relative_to(folder.resolve()) and path.is_file():
                    return path
            except (OSError, ValueError):  # a text that is no name of a file
                return None
        return None

    def digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]
