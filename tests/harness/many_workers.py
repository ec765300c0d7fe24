"""Machines of a Ray cluster on this machine's loopback, whose workers are real ComfyUI servers on simulated XPUs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .hosts import ROOT, host_environment, host_path
from .models import ensure_models

_PROGRAM = """
import os, runpy, sys
from tests import xpu_sim
xpu_sim.install(xpu_sim.Config(devices=(xpu_sim.Device(),)))
host = {host!r}
sys.argv[0] = os.path.join(host, "main.py")
sys.path[0] = host
runpy.run_path(sys.argv[0], run_name="__main__")
"""

_CLUSTER = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listens on 127.0.0.1 only
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # a token would be written into the home of whoever runs the tests
    "RAY_enable_metrics_collection": "0",
}


def simulated_comfyui(folder: Path) -> Path:
    """A ComfyUI's folder whose main.py runs the host's on one simulated XPU, as a bound worker sees it."""
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(_PROGRAM.format(host=str(host_path())))
    return folder


def environment() -> dict[str, str]:
    """For a command that starts workers, and for the machines that they are on."""
    return {**host_environment(), "OMP_NUM_THREADS": "1", **_CLUSTER}


def batch(workflow: Path, *options: str) -> subprocess.Popen[str]:
    """The command, started; its output is to be read from it."""
    models = ensure_models("sd15-tiny")
    line = [sys.executable, "-m", "xpu_utils", "batch", str(workflow), "--models", str(models), *options]
    return subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@contextlib.contextmanager
def cluster(machines: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    """A cluster of so many machines; answers its handle and the machines, the first of which is the head."""
    os.environ.update(environment())  # their processes inherit it
    from ray.cluster_utils import Cluster

    whole = Cluster()
    try:
        nodes = [
            whole.add_node(
                num_cpus=1, node_ip_address="127.0.0.1", object_store_memory=100 << 20, include_dashboard=False
            )
            for _ in range(machines)
        ]
        yield whole, nodes
    finally:
        whole.shutdown()
