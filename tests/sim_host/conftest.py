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


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """DynamicVRAM's tests are for hosts that have it."""
    if collection_path.name != "test_dynamic_vram.py":
        return None
    patchers = host_path() / "comfy" / "model_patcher.py"
    return "class ModelPatcherDynamic" not in patchers.read_text(encoding="utf-8") or None
