"""Real ComfyUI servers on simulated XPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_path
from tests.harness.models import ensure_models
from tests.harness.server import Server
from tests.harness.simulated import simulated_server
from tests.xpu_sim.control import Client

SimServer = Callable[..., contextlib.AbstractContextManager[tuple[Server, Client]]]
"""`with sim_server(config) as (server, control)`: see `sim_server` below."""


@pytest.fixture(scope="session")
def host() -> Path:
    return host_path()


@pytest.fixture(scope="session")
def sim_server(tmp_path_factory: pytest.TempPathFactory) -> SimServer:
    """A factory of servers: a config of `tests/xpu_sim` in, the server and the simulation's control out."""
    models = ensure_models("sd15-tiny")

    def start(
        config: Mapping[str, Any], *, environment: Mapping[str, str] | None = None, **options: Any
    ) -> contextlib.AbstractContextManager[tuple[Server, Client]]:
        base = tmp_path_factory.mktemp("sim")
        own_cache = {"XPU_NODES_CACHE_DIR": str(base / "cache"), **(environment or {})}
        return simulated_server(base, config, models=models, environment=own_cache, **options)

    return start


_NEWER = {
    "test_dynamic_vram.py": ("comfy/model_patcher.py", "class ModelPatcherDynamic"),
    "test_device_nodes.py": ("comfy_extras/nodes_multigpu.py", "class SelectModelDeviceNode"),
    "test_split.py": ("comfy_extras/nodes_multigpu.py", "class MultiGPUCFGSplitNode"),
}
"""What the tests of newer hosts' features are for: a file of the host, and what stands in it."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out the tests of what this host has not."""
    if collection_path.name not in _NEWER:
        return None
    name, feature = _NEWER[collection_path.name]
    file = host_path() / name
    return not (file.is_file() and feature in file.read_text(encoding="utf-8")) or None
