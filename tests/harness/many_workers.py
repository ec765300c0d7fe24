"""Machines of a Ray cluster on this machine's loopback, whose workers are real ComfyUI servers on simulated XPUs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from xpu_utils.batch.results import MANIFEST

from .hosts import ROOT, SITE, host_environment, host_path
from .models import ensure_models

_PROGRAM = """
import os, runpy, sys
from tests import xpu_sim
from tests.xpu_sim.faults import Fault
xpu_sim.install(xpu_sim.Config(devices=(xpu_sim.Device(),), faults=tuple(Fault(**fault) for fault in {faults!r})))
host = {host!r}
sys.argv[0] = os.path.join(host, "main.py")
sys.argv += ["--extra-model-paths-config", {packs!r}]
sys.path[0] = host
runpy.run_path(sys.argv[0], run_name="__main__")
"""

_CLUSTER = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listens on 127.0.0.1 only
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # a token would be written into the home of whoever runs the tests
    "RAY_enable_metrics_collection": "0",
}


def simulated_comfyui(folder: Path, faults: Sequence[Mapping[str, Any]] = ()) -> Path:
    """A ComfyUI's folder whose main.py runs the host's on one simulated XPU, as a worker sees it, with test nodes.

    Args:
        faults: that every process meets; see tests/xpu_sim.
    """
    (folder / "packs").mkdir(parents=True)
    (folder / "packs" / "worker-pack").symlink_to(Path(__file__).with_name("worker_pack"), target_is_directory=True)
    packs = folder / "packs.yaml"
    packs.write_text(json.dumps({"tests": {"base_path": str(folder), "custom_nodes": "packs"}}))
    (folder / "main.py").write_text(_PROGRAM.format(host=str(host_path()), packs=str(packs), faults=list(faults)))
    return folder


def environment() -> dict[str, str]:
    """For the machines that workers are on."""
    return {**host_environment(), "OMP_NUM_THREADS": "1", **_CLUSTER}


def command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """A command of the pack's as users give it, and its environment, in which nothing says where the pack is."""
    return [sys.executable, str(ROOT), *arguments], {**environment(), "PYTHONPATH": str(SITE)}


def batch(workflow: Path, *options: str) -> subprocess.Popen[str]:
    """The command, started; its output is to be read from it."""
    models = ensure_models("sd15-tiny")
    line, variables = command("batch", str(workflow), "--models", str(models), *options)
    return subprocess.Popen(
        line, cwd=workflow.parent, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until(true: Callable[[], bool], timeout_s: float = 300) -> None:
    """Returns when something is so.

    Raises:
        TimeoutError: it was not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{true} was not so within {timeout_s:.0f} s.")
        time.sleep(0.2)


def recorded(out: Path) -> list[dict[str, Any]]:
    """The whole lines of a batch's manifest."""
    file = out / MANIFEST
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_results(out: Path, count: int) -> list[dict[str, Any]]:
    """The manifest once it has so many lines."""
    wait_until(lambda: len(recorded(out)) >= count)
    return recorded(out)


def servers(comfyui: Path) -> list[psutil.Process]:
    """The ComfyUI processes that run from a folder now."""
    program = str(comfyui / "main.py")
    return [process for process in psutil.process_iter() if program in _line(process)]


def _line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return list(process.cmdline())
    return []


@contextlib.contextmanager
def cluster(machines: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    """A cluster of so many machines; answers its handle and the machines, the first of which is the head."""
    with mock.patch.dict(os.environ, environment()):  # their processes inherit it
        from ray.cluster_utils import Cluster

        whole = Cluster()
        needless = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        try:
            nodes = [
                whole.add_node(num_cpus=1, node_ip_address="127.0.0.1", object_store_memory=100 << 20, **needless)
                for _ in range(machines)
            ]
            yield whole, nodes
        finally:
            whole.shutdown()
