"""Where the work of a prompt really runs, told by the simulation's own counts."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.harness.models import ensure_models
from tests.harness.server import Server
from tests.harness.simulated import COMPUTING, simulated_server
from tests.harness.workflows import Workflow, text_to_image, with_our_nodes
from tests.training.checkpoint import NAME, trained
from tests.training.judge import named
from tests.training.score import Row
from tests.training.score import workflow as drawing
from tests.xpu_sim.control import Client as Simulation
from tests.xpu_sim.statistics import DeviceCounts, Statistics

Machine = tuple[Server, Simulation]
Work = dict[str, int]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Two devices of unequal size, the second one without fp64; every prompt is executed anew."""
    base = tmp_path_factory.mktemp("placement")
    models = ensure_models("sd15-tiny", NAME)
    config = {"devices": ["arc-b580", "arc-a770"]}
    with simulated_server(base, config, models=models, arguments=("--cache-none",)) as running:
        yield running


@pytest.fixture(scope="module")
def on_cpu(machine: Machine) -> np.ndarray[Any, Any]:
    """The CPU's picture in fp32, which is that of the stock nodes (tests/host/test_parity.py)."""
    return picture(machine[0], with_our_nodes(text_to_image(), device="cpu", precision="fp32"))


def picture(server: Server, workflow: Workflow) -> np.ndarray[Any, Any]:
    result = server.client.run(workflow)
    assert result.error is None, result.message
    return np.asarray(Image.open(io.BytesIO(server.client.image(result, "save"))), dtype=np.int16)


def counted(machine: Machine, workflow: Workflow) -> tuple[np.ndarray[Any, Any], Statistics]:
    """The picture, and what each device did for it."""
    server, simulation = machine
    simulation.reset_statistics()
    image = picture(server, workflow)
    return image, simulation.statistics()


def work(counts: DeviceCounts) -> Work:
    """What the models compute with, and how often the device did it."""
    return {name: counts.count(name) for name in COMPUTING if counts.count(name)}


HEAD_DIMS = 4
"""Of the models here, at most; a model that attended on the CPU would do so more often."""


def work_on_cpu(statistics: Statistics) -> Work:
    """Without what the self-test compares with: one attention when a device first meets a head dim."""
    counts = {name: statistics.cpu_count(name) for name in COMPUTING if statistics.cpu_count(name)}
    compared = counts.get("scaled_dot_product_attention", 0) <= HEAD_DIMS
    return {name: count for name, count in counts.items() if not (compared and name.startswith("scaled_dot"))}


def placed(*, model: str, others: str, steps: int = 2) -> Workflow:
    """The stock graph with the diffusion model on one device, text encoder and VAE on another."""
    graph = text_to_image(steps=steps)
    for part, slot, device in (("model", 0, model), ("clip", 1, others), ("vae", 2, others)):
        name = "Model" if part == "model" else part.upper()
        inputs = {part: ["checkpoint", slot], "device": device, "precision": "fp32"}
        graph[f"place-{part}"] = {"class_type": f"XPUPlace{name}", "inputs": inputs}
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["place-clip", 0]
    graph["sampler"]["inputs"]["model"] = ["place-model", 0]
    graph["decode"]["inputs"]["vae"] = ["place-vae", 0]
    return graph


def test_everything_of_ours_runs_on_the_first_device_bit_for_bit_like_the_cpu(
    machine: Machine, on_cpu: np.ndarray[Any, Any]
) -> None:
    image, statistics = counted(machine, with_our_nodes(text_to_image(), precision="fp32"))
    first, second = statistics.devices
    assert first.count("convolution") > 100
    assert (work(second), work_on_cpu(statistics)) == ({}, {})
    assert np.array_equal(image, on_cpu)


def test_a_device_without_fp64_gives_the_same_picture(machine: Machine, on_cpu: np.ndarray[Any, Any]) -> None:
    image, statistics = counted(machine, with_our_nodes(text_to_image(), device="xpu:1", precision="fp32"))
    first, second = statistics.devices
    assert second.count("convolution") > 100
    assert (work(first), work_on_cpu(statistics)) == ({}, {})
    assert np.array_equal(image, on_cpu)


def test_bf16_draws_what_was_asked_for(machine: Machine) -> None:
    """With trained weights: a subject that is named says more than how far apart pictures of random ones are."""
    rounded, statistics = counted(machine, drawing("octopus", Row("xpu:0", "bf16")))
    first, second = statistics.devices
    assert sum(work(first).values()) > 100
    assert (work(second), work_on_cpu(statistics)) == ({}, {})
    exact, _ = counted(machine, drawing("octopus", Row("xpu:0", "fp32")))
    assert not np.array_equal(rounded, exact)
    seen = torch.from_numpy(np.stack([exact, rounded]) / 255).permute(0, 3, 1, 2)
    assert named(seen, trained("judge")) == ["octopus"] * 2


@pytest.fixture(scope="module")
def on_one(machine: Machine) -> tuple[np.ndarray[Any, Any], Work, Work]:
    """The picture of one device, with the diffusion model's work for it and that of text encoder and VAE:
    a third step is the diffusion model's alone."""
    image, two = counted(machine, placed(model="xpu:0", others="xpu:0"))
    _, three = counted(machine, placed(model="xpu:0", others="xpu:0", steps=3))
    whole, longer = Counter(work(two.devices[0])), Counter(work(three.devices[0]))
    step = longer - whole
    return image, dict(step + step), dict(whole - step - step)


@pytest.mark.parametrize(("model", "others"), [(1, 0), (0, 1)])
def test_parts_of_a_prompt_run_on_the_devices_they_were_placed_on(
    machine: Machine, on_one: tuple[np.ndarray[Any, Any], Work, Work], model: int, others: int
) -> None:
    image, statistics = counted(machine, placed(model=f"xpu:{model}", others=f"xpu:{others}"))
    expected, of_model, of_others = on_one
    assert (work(statistics.devices[model]), work(statistics.devices[others])) == (of_model, of_others)
    assert min(share["convolution"] for share in (of_model, of_others)) > 30
    assert work_on_cpu(statistics) == {}
    assert np.array_equal(image, expected)


def test_a_device_that_is_not_there_is_replaced_by_the_first(machine: Machine) -> None:
    _, statistics = counted(machine, with_our_nodes(text_to_image(), device="xpu:2", precision="fp32"))
    first, second = statistics.devices
    assert first.count("convolution") > 100
    assert (work(second), work_on_cpu(statistics)) == ({}, {})
    assert "xpu:2 is not on this machine" in machine[0].log_text()
