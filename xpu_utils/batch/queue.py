"""Which job an idle worker is given next."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping

from ..workers.worker import Need
from .jobs import Job


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A job that is to be done, and what became of it before."""

    job: Job
    tried: tuple[tuple[str, str], ...] = ()
    """Worker and what it said."""

    def tried_by(self, worker: str) -> bool:
        return any(name == worker for name, _ in self.tried)


class Queue:
    """Waiting jobs, by the models that they need."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._groups: dict[frozenset[Need], collections.deque[Waiting]] = {}
        for job in jobs:
            self._groups.setdefault(job.needs, collections.deque()).append(Waiting(job))

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def again(self, waiting: Waiting) -> None:
        """Puts a job back, before all others."""
        self._groups.setdefault(waiting.job.needs, collections.deque()).appendleft(waiting)

    def take(
        self, worker: str, models: Collection[Need], *, loaded: frozenset[Need], others: Mapping[str, Collection[Need]]
    ) -> Waiting | None:
        """The next job for a worker, or None.

        One with the models that the worker has loaded comes first, then the lowest number. A job that it has failed
        at before is left to another that can do it.

        Args:
            models: the files that it has.
            others: the other workers that there are, with theirs.
        """
        fit = [needs for needs, group in self._groups.items() if group and needs.issubset(models)]
        fit.sort(key=lambda needs: (needs != loaded, self._groups[needs][0].job.number))
        for needs in fit:
            group = self._groups[needs]
            for index, waiting in enumerate(group):
                if not waiting.tried_by(worker) or not _untried(waiting, others):
                    del group[index]
                    return waiting
        return None

    def take_impossible(self, models: Iterable[Collection[Need]]) -> Iterator[tuple[Waiting, frozenset[Need]]]:
        """Takes out the jobs that no worker can do, each with the files that it lacks at the one that lacks fewest."""
        have = [set(files) for files in models]
        for needs in [needs for needs in self._groups if not any(needs <= files for files in have)]:
            lacking = min((needs - files for files in have), key=len, default=needs)
            for waiting in self._groups.pop(needs):
                yield waiting, lacking


def _untried(waiting: Waiting, workers: Mapping[str, Collection[Need]]) -> bool:
    """Whether one of the workers can do the job and has not tried it."""
    return any(waiting.job.needs.issubset(have) and not waiting.tried_by(name) for name, have in workers.items())
