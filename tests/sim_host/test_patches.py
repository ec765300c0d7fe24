"""What nodes of other packs and of ComfyUI's keep beside a model is where the model is, and survives a lost device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.harness.models import MODELS, ensure_models
from tests.harness.server import Server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes
from tests.host.conftest import PACKS
from tests.host.graphs import controlnet
from tests.xpu_sim.control import Client as Simulation

from .matrix import faulty_server, next_fault
from .test_left_behind import assert_a_fault_costs_nothing, latents

Machine = tuple[Server, Simulation]

PATCHES = ("PatchAttention", "PatchBlock", "PatchCalls", "PatchModel", "HypernetworkLoader")
CONTROLS = ("control-lora", "t2i-adapter")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    base = tmp_path_factory.mktemp("patches")
    layouts = ("sd15-tiny-unet", "controlnet-sd15-tiny", "sd15-tiny")
    write_files(ensure_models(*layouts), base / "models")
    packs = {**PACKS, "patch-pack": Path(__file__).with_name("patch_pack")}
    with faulty_server(base, *layouts, devices=8, packs=packs, arguments=("--cache-lru", "99")) as running:
        yield running


def write_files(models: Path, into: Path) -> None:
    """A models folder of links to the shared one's files, with a Control-LoRA, a T2I adapter and a hypernetwork."""
    for file in models.glob("*/*"):
        (into / file.parent.name).mkdir(parents=True, exist_ok=True)
        (into / file.parent.name / file.name).symlink_to(file)
    save_file(control_lora(), into / "controlnet" / "control-lora.safetensors")
    save_file(t2i_adapter(), into / "controlnet" / "t2i-adapter.safetensors")
    (into / "hypernetworks").mkdir()
    torch.save(hypernetwork(), into / "hypernetworks" / "hypernetwork.pt")


def control_lora() -> dict[str, torch.Tensor]:
    """The tiny ControlNet's own layers, and low ranks for queries of the model's."""
    control = load_file(MODELS / "controlnet" / "controlnet-sd15-tiny.safetensors")
    control = {name.removeprefix("control_model."): weight for name, weight in control.items()}
    own = ("zero_convs", "middle_block_out", "input_hint_block")
    weights = {name: weight for name, weight in control.items() if name.startswith(own)}
    for name, weight in control.items():
        if name.endswith("attn1.to_q.weight"):
            stem = name.removesuffix("weight")
            weights[f"{stem}up"], weights[f"{stem}down"] = random(len(weight), 4), random(4, weight.shape[1])
    return {"lora_controlnet": torch.zeros(0), **weights}


def t2i_adapter() -> dict[str, torch.Tensor]:
    """The layout for SDXL, of which one of the features fits the tiny model."""
    channels, weights = (320, 640, 1280, 1280), {"conv_in": (320, 768, 3, 3)}
    for number in range(8):
        into = channels[number // 2]
        coming = channels[max(0, (number - 1) // 2)] if number in (2, 4) else into
        if coming != into:
            weights[f"body.{number}.in_conv"] = (into, coming, 1, 1)
        weights[f"body.{number}.block1"], weights[f"body.{number}.block2"] = (into, into, 3, 3), (into, into, 1, 1)
    named = {f"{name}.weight": random(*shape, scale=0.3) for name, shape in weights.items()}
    return named | {f"{name}.bias": torch.zeros(shape[0]).half() for name, shape in weights.items()}


def hypernetwork() -> dict[object, object]:
    """One hidden layer for keys and values of 320 and 768 wide inputs."""

    def layers(width: int) -> dict[str, torch.Tensor]:
        inner, outer = random(2 * width, width).float(), random(width, 2 * width).float()
        biases = {"linear.0.bias": torch.zeros(2 * width), "linear.1.bias": torch.zeros(width)}
        return {"linear.0.weight": inner, "linear.1.weight": outer, **biases}

    shape = {"layer_structure": [1, 2, 1], "activation_func": "linear", "is_layer_norm": False}
    return {**shape, **{width: [layers(width), layers(width)] for width in (320, 768)}}


def random(*shape: int, scale: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return (torch.randn(*shape, generator=generator) * scale / shape[-1] ** 0.5).half()


def patched(class_type: str) -> Workflow:
    graph = text_to_image(steps=3)
    inputs = {"hypernetwork_name": "hypernetwork.pt", "strength": 1.0} if class_type == "HypernetworkLoader" else {}
    graph["patch"] = node(class_type, model=["checkpoint", 0], **inputs)
    graph["sampler"]["inputs"]["model"] = ["patch", 0]
    return graph


def controlled(name: str) -> Workflow:
    graph = controlnet()
    graph["control"]["inputs"]["control_net_name"] = f"{name}.safetensors"
    graph["hint"]["inputs"].update(width=32, height=32)
    graph["sampler"]["inputs"]["steps"] = 3
    return graph


GRAPHS = {name: patched(name) for name in PATCHES} | {name: controlled(name) for name in CONTROLS}


SEED = 1000
"""No other test's: the server would answer from its cache."""


@pytest.fixture(scope="module")
def plain(machine: Machine) -> torch.Tensor:
    """What is drawn where nothing is kept beside the model."""
    return latents(machine[0], text_to_image(steps=3), device="auto", seed=SEED)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_kept_is_where_the_model_is(machine: Machine, plain: torch.Tensor, name: str) -> None:
    """On the CPU and on a card that is not ComfyUI's default; and it changes what is drawn."""
    server, _ = machine
    graph = GRAPHS[name]
    found = {device: latents(server, graph, device=device, seed=SEED) for device in ("cpu", "xpu:7", "auto")}
    assert (found["auto"] - plain).abs().max() > 1e-3
    for device in ("cpu", "xpu:7"):
        torch.testing.assert_close(found[device], found["auto"], atol=1e-4, rtol=1e-3)


def test_weights_that_nobody_remembers_survive_when_another_card_had_them_before(machine: Machine) -> None:
    graph = text_to_image(steps=3)
    graph["model"] = node("LoadUnremembered")
    graph["sampler"]["inputs"]["model"] = ["model", 0]
    latents(machine[0], graph, device="xpu:7", seed=999)
    assert_a_fault_costs_nothing(machine, graph, "device_lost", tolerance=1e-3)


def test_what_cannot_be_reached_ends_in_a_sentence_that_names_it_and_the_first_fault(machine: Machine) -> None:
    server, _ = machine
    graph = with_our_nodes(patched("PatchUnreachable"), precision="fp32")
    with next_fault(machine, "sampler", step=1, operator="aten::convolution", kind="nan"):
        message = server.client.run(graph).message.strip()
    assert message.startswith("Sampling step 2 failed with data on two devices (weigh_by_the_modules of patch-pack: ")
    assert " after NaN in the result (" in message
    assert message.endswith("leave that node out, or leave the model on the device that ComfyUI takes by itself.")
    assert server.client.run(graph).error is None, "the next prompt"


PER_COMMIT = ("PatchAttention", "PatchModel", "control-lora")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in PER_COMMIT else pytest.mark.matrix) for name in GRAPHS]
)
def test_what_is_kept_survives_a_lost_device(machine: Machine, name: str) -> None:
    assert_a_fault_costs_nothing(machine, GRAPHS[name], "device_lost", tolerance=1e-3)
