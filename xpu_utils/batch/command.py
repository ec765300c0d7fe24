"""What the command does: reads what it was given, connects to Ray, and says what became of the jobs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from ..workers.cluster import NoRay, connect, imported_ray
from ..workers.folder import FolderTaken
from ..workers.setup import CannotStart, Setup, comfyui_folder, devices_of
from .dispatch import Batch
from .jobs import Job, make_jobs, rows_of, seeds_of
from .progress import Bars
from .results import Results, check_pattern, opened
from .workflow import BadJob, Workflow


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Exit code 0: all jobs are done; 1: some are not; 2: they cannot be begun."""
    setup = Setup.of(arguments.comfyui, arguments.models)
    try:
        workflow = Workflow.read(arguments.workflow)
        jobs = _jobs(arguments, workflow, setup)
        if arguments.dry_run:
            return 0, "\n".join([*map(_described, jobs), f"{len(jobs)} jobs"])
        imported_ray(arguments.address)  # what locks the folder comes with it
        with opened(arguments.out) as results:
            return _do(arguments, workflow, jobs, setup, results)
    except (BadJob, FolderTaken, NoRay) as error:
        return 2, f"batch: {error}"
    except OSError as error:
        what = f"{error.filename or arguments.out}: {error.strerror or error}"
        return 1, f"batch: {what}; make room or mend it, the same command does what is left."
    except KeyboardInterrupt:
        return 1, "batch: interrupted; the same command does what is left."


def _jobs(arguments: argparse.Namespace, workflow: Workflow, setup: Setup) -> list[Job]:
    settings = {}
    for entry in arguments.set:
        name, equals, value = entry.partition("=")
        if not equals:
            raise BadJob(f"--set {entry} has no value, give NODE.input=VALUE.")
        settings[name] = value
    folders = [arguments.workflow.resolve().parent]
    with contextlib.suppress(CannotStart):  # workers may be on other machines only
        folders.append(comfyui_folder(setup) / "input")
    jobs = make_jobs(
        workflow,
        settings=settings,
        rows=rows_of(arguments.table) if arguments.table else (),
        seeds=seeds_of(arguments.seeds) if arguments.seeds else (),
        folders=folders,
    )
    for job in jobs:
        check_pattern(arguments.name, job)
    return jobs


def _described(job: Job) -> str:
    brings = f", brings {', '.join(job.files)}" if job.files else ""
    needs = f", needs {', '.join(sorted({need.name for need in job.needs}))}" if job.needs else ""
    return f"{job}{brings}{needs}"


def _do(
    arguments: argparse.Namespace, workflow: Workflow, jobs: list[Job], setup: Setup, results: Results
) -> tuple[int, str]:
    left = [job for job in jobs if job.key not in results.done]
    if not left:
        return 0, f"All {len(jobs)} jobs were done before, their results are in {arguments.out}."
    ray = connect(arguments.address)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # in place of Ray's, which ends in a crash
    try:
        with Bars(len(jobs), len(jobs) - len(left)) as bars:
            batch = Batch(
                ray,
                workflow,
                results,
                bars,
                setup=setup,
                devices=devices_of(arguments.devices),
                pattern=arguments.name,
                width=len(str(len(jobs))),
                silence_seconds=arguments.silence,
            )
            asyncio.run(batch.run(left))
    finally:
        ray.shutdown()
    done = len(jobs) - len(left) + batch.done
    undone = len(left) - batch.done - len(batch.given_up)
    lines = [f"{done} of {len(jobs)} jobs are done, their results are in {arguments.out}."]
    lines += [f"{job}: {reason}" for job, reason in batch.given_up]
    if undone:
        lines.append(f"{undone} jobs found no worker; the same command does them.")
    return int(done < len(jobs)), "\n".join(lines)
