"""The tests of the simulated XPU run in a pytest process of their own: `pytest tests/sim`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import xpu_sim
from tests.xpu_sim.config import PRESETS
from tests.xpu_sim.fixtures import xpu_sim_process  # noqa: F401

from .streamed import attach, build, comfy  # noqa: F401

DEVICES = (PRESETS["arc-b580"], PRESETS["arc-a770"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse to share the process with tests that expect an ordinary torch."""
    own = Path(__file__).parent
    if any(own not in item.path.parents for item in items):
        raise pytest.UsageError("tests/sim replaces parts of torch in its process: run `pytest tests/sim` by itself.")


@pytest.fixture(scope="session")
def machine() -> xpu_sim.Simulation:
    return xpu_sim.install(xpu_sim.Config(devices=DEVICES))


@pytest.fixture(autouse=True)
def sim(machine: xpu_sim.Simulation) -> Iterator[xpu_sim.Simulation]:
    """The simulation of this process, every test starting from the same state."""
    import torch

    machine.reset_statistics()
    yield machine
    machine.clear_faults()
    for index, device in enumerate(DEVICES):
        machine.restore_device(index, device)
        torch.xpu.set_per_process_memory_fraction(1.0, index)
    torch.xpu.set_device(0)
    torch.xpu.empty_cache()
