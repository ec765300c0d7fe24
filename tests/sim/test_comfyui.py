"""The real ComfyUI, unchanged, through its stock nodes, on simulated devices."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.harness.models import ensure_models
from tests.harness.server import Server, running_server
from tests.harness.simulated import COMPUTING
from tests.harness.workflows import text_to_image
from tests.xpu_sim import Statistics
from tests.xpu_sim.control import Client


@pytest.fixture(scope="session")
def models() -> Path:
    return ensure_models("sd15-tiny")


@contextlib.contextmanager
def simulated(base: Path, models: Path, arguments: Sequence[str], device: str = "arc-b580") -> Iterator[Server]:
    base.mkdir()
    config = {"devices": [device], "control_port": 0, "control_port_file": str(base / "control-port")}
    (base / "sim.json").write_text(json.dumps(config))
    launcher = ("-m", "tests.xpu_sim", "--config", str(base / "sim.json"), "--")
    with running_server(base, models=models, arguments=arguments, launcher=launcher, packs={}) as server:
        yield server


def control(server: Server) -> Client:
    return Client(int((server.base / "control-port").read_text()))


def picture(server: Server, seed: int = 7) -> np.ndarray:
    """Generates a picture and returns its 8-bit pixels."""
    result = server.client.run(text_to_image(size=64, steps=2, seed=seed))
    assert result.error is None, result.message
    image = result.outputs["save"]["images"][0]
    return np.asarray(Image.open(server.base / "output" / image["filename"])).astype(int)


@pytest.fixture(scope="session")
def on_cpu(tmp_path_factory: pytest.TempPathFactory, models: Path) -> np.ndarray:
    base = tmp_path_factory.mktemp("cpu")
    arguments = ("--cpu", "--force-fp32", "--use-pytorch-cross-attention")
    with running_server(base, models=models, arguments=arguments, packs={}) as server:
        return picture(server)


@pytest.fixture(scope="session")
def fp32(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[tuple[np.ndarray, Statistics, Server]]:
    base = tmp_path_factory.mktemp("fp32") / "base"
    with simulated(base, models, ("--force-fp32", "--gpu-only")) as server:
        yield picture(server), control(server).statistics(), server


def test_fp32_is_bit_identical_to_the_cpu(on_cpu: np.ndarray, fp32: tuple[np.ndarray, Statistics, Server]) -> None:
    assert on_cpu.std() > 1
    assert np.array_equal(fp32[0], on_cpu)


def test_every_model_computes_on_the_device(fp32: tuple[np.ndarray, Statistics, Server]) -> None:
    statistics = fp32[1]
    assert {name: statistics.cpu_count(name) for name in COMPUTING} == dict.fromkeys(COMPUTING, 0)
    device = statistics.devices[0]
    assert device.fell_back == {}
    for name in ("index_select", "convolution", "addmm", "scaled_dot_product_attention", "upsample_nearest2d"):
        assert device.count(name), name


def test_weights_go_to_the_device_once(fp32: tuple[np.ndarray, Statistics, Server]) -> None:
    _, first, server = fp32
    client = control(server)
    client.reset_statistics()
    picture(server, seed=8)
    again = client.statistics()
    assert first.bytes_copied("host_to_device") > 300_000_000
    assert again.bytes_copied("host_to_device") < 1_000_000
    assert again.devices[0].count("convolution") > 0


def test_the_server_names_the_device(fp32: tuple[np.ndarray, Statistics, Server]) -> None:
    (device,) = fp32[2].client.get("/system_stats")["devices"]
    assert device["name"] == "xpu:0 Intel(R) Arc(TM) B580 Graphics"
    assert device["vram_total"] == 12 << 30


@pytest.fixture(scope="session")
def bf16(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[tuple[np.ndarray, Statistics, Server]]:
    base = tmp_path_factory.mktemp("bf16") / "base"
    with simulated(base, models, ("--bf16-unet", "--bf16-vae")) as server:
        yield picture(server), control(server).statistics(), server


def test_bf16_is_the_cpu_within_rounding(on_cpu: np.ndarray, bf16: tuple[np.ndarray, Statistics, Server]) -> None:
    pixels, statistics, _ = bf16
    assert {name: statistics.cpu_count(name) for name in COMPUTING} == dict.fromkeys(COMPUTING, 0)
    # bf16 has 8 significant bits: about one level of 256 after two models
    assert 0 < np.abs(pixels - on_cpu).mean() < 2


def test_a_lost_device_fails_the_prompt(bf16: tuple[np.ndarray, Statistics, Server]) -> None:
    server = bf16[2]
    control(server).set_faults({"operator": "convolution", "kind": "device_lost", "nth": 20})
    result = server.client.run(text_to_image(size=64, steps=2, seed=9), timeout_s=120)
    assert "UR_RESULT_ERROR_DEVICE_LOST" in result.message
    assert control(server).statistics().devices[0].lost
