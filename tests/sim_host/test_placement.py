"""Where the work of a prompt really runs, told by the simulation's own counts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.harness.models import ensure_models
from tests.harness.server import Server, running_server
from tests.harness.simulated import simulated_server
from tests.harness.workflows import Workflow, text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation
from tests.xpu_sim.statistics import Statistics

Machine = tuple[Server, Simulation]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Two devices of unequal size; every prompt is executed anew."""
    devices = ["arc-b580", {"preset": "arc-a770", "has_fp64": True}]
    base = tmp_path_factory.mktemp("placement")
    models = ensure_models("sd15-tiny")
    with simulated_server(base, {"devices": devices}, models=models, arguments=("--cache-none",)) as running:
        yield running


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray[Any, Any]:
    """The stock nodes' picture on the CPU, computed in fp32 with the attention that ComfyUI uses on XPUs."""
    options = ("--cpu", "--use-pytorch-cross-attention")
    base = tmp_path_factory.mktemp("cpu")
    with running_server(base, models=ensure_models("sd15-tiny"), arguments=options) as server:
        return picture(server, text_to_image())


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


def model_work(statistics: Statistics) -> tuple[list[int], int]:
    """Convolutions and linear layers executed on each device, and on the CPU."""
    names = ("convolution", "addmm")
    devices = [sum(device.count(name) for name in names) for device in statistics.devices]
    return devices, sum(statistics.cpu_count(name) for name in names)


def test_everything_of_ours_runs_on_the_first_device_bit_for_bit_like_the_cpu(
    machine: Machine, on_cpu: np.ndarray[Any, Any]
) -> None:
    image, statistics = counted(machine, with_our_nodes(text_to_image(), precision="fp32"))
    devices, cpu = model_work(statistics)
    assert devices[0] > 100
    assert (devices[1], cpu) == (0, 0)
    assert np.array_equal(image, on_cpu)


def test_bf16_is_the_cpus_picture_within_its_rounding(machine: Machine, on_cpu: np.ndarray[Any, Any]) -> None:
    image, statistics = counted(machine, with_our_nodes(text_to_image(), precision="bf16"))
    assert model_work(statistics)[1] == 0
    assert np.abs(image - on_cpu).mean() < 4


def test_parts_of_a_prompt_run_on_the_devices_they_were_placed_on(machine: Machine) -> None:
    graph = text_to_image()
    graph["place-model"] = {
        "class_type": "XPUPlaceModel",
        "inputs": {"model": ["checkpoint", 0], "device": "xpu:1", "precision": "fp32"},
    }
    for part, slot in (("clip", 1), ("vae", 2)):
        graph[f"place-{part}"] = {
            "class_type": f"XPUPlace{part.upper()}",
            "inputs": {part: ["checkpoint", slot], "device": "xpu:0", "precision": "fp32"},
        }
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["place-clip", 0]
    graph["sampler"]["inputs"]["model"] = ["place-model", 0]
    graph["decode"]["inputs"]["vae"] = ["place-vae", 0]
    _, statistics = counted(machine, graph)
    encoder_and_decoder, sampler = statistics.devices
    # Two steps of a U-Net with time embedding on the second device; attention over the text only in the encoder.
    assert sampler.count("convolution") > 30
    assert sampler.count("embedding") == sampler.count("index_select") == 0
    assert encoder_and_decoder.count("convolution") > 0, "the VAE was decoded elsewhere"
    assert encoder_and_decoder.count("index_select") + encoder_and_decoder.count("embedding") > 0, "text elsewhere"
    assert model_work(statistics)[1] == 0


def test_a_device_that_is_not_there_is_replaced_by_the_first(tmp_path: Path) -> None:
    models = ensure_models("sd15-tiny")
    with simulated_server(tmp_path, {"devices": ["arc-b580"]}, models=models) as machine:
        _, statistics = counted(machine, with_our_nodes(text_to_image(), device="xpu:1", precision="fp32"))
        devices, cpu = model_work(statistics)
        assert devices[0] > 100
        assert cpu == 0
        assert "xpu:1 is not on this machine" in machine[0].log_text()
