"""What was on a device beside a model's weights when it failed or was lost: none of it costs a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.harness.models import ensure_models
from tests.harness.server import Server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes
from tests.host.conftest import PACKS, dumped
from tests.host.graphs import controlnet, sd3
from tests.xpu_sim.control import Client as Simulation

from .matrix import faulty_server, next_fault

Machine = tuple[Server, Simulation]

_seeds = itertools.count(7)
"""Never one twice: the server would answer from its cache."""

DEVICES = 8
"""Nearly every test loses one."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    base = tmp_path_factory.mktemp("left-behind")
    layouts = ("sd15-tiny", "sd3-tiny", "lora-sd15-tiny", "controlnet-sd15-tiny", "clip-vision-l")
    link_models(ensure_models(*layouts), base / "models")
    save_file(preview_decoder(), base / "models" / "vae_approx" / "taesd_decoder.safetensors")
    arguments = ("--cache-lru", "99", "--preview-method", "taesd")
    with faulty_server(base, *layouts, devices=DEVICES, packs=PACKS, arguments=arguments) as running:
        yield running


def link_models(models: Path, into: Path) -> None:
    """A models folder of links to the shared one's folders, with room for files of this test."""
    (into / "vae_approx").mkdir(parents=True)
    for folder in models.iterdir():
        if folder.name != "vae_approx":
            (into / folder.name).symlink_to(folder, target_is_directory=True)


def preview_decoder() -> dict[str, torch.Tensor]:
    """Random weights of TAESD's decoder."""
    torch.manual_seed(0)
    convolutions = {"1": (64, 4), "7": (64, 64), "12": (64, 64), "17": (64, 64), "19": (3, 64)}
    for block in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        convolutions |= {f"{block}.conv.{layer}": (64, 64) for layer in (0, 2, 4)}
    weights = {f"{name}.weight": torch.randn(*shape, 3, 3) / 24 for name, shape in convolutions.items()}
    biased = [name for name in convolutions if name not in ("7", "12", "17")]
    return weights | {f"{name}.bias": torch.zeros(convolutions[name][0]) for name in biased}


def latents(server: Server, graph: Workflow, *, device: str, seed: int, stock: tuple[str, ...] = ()) -> torch.Tensor:
    """Sampled by our nodes, but for those that are to stay ComfyUI's."""
    placed = with_our_nodes(graph, device=device, precision="fp32")
    placed.update({name: graph[name] for name in stock})
    del placed["decode"], placed["save"]
    placed["sampler"]["inputs"]["seed"] = seed
    return dumped(server, placed, ["sampler", 0], f"left-{device.replace(':', '')}")


def assert_a_fault_costs_nothing(
    machine: Machine,
    graph: Workflow,
    *kinds: str,
    device: str = "auto",
    stock: tuple[str, ...] = (),
    tolerance: float = 0.0,
) -> None:
    """A fault of each kind in a prompt's second step; and the next prompt, with the same objects, is right as well.

    Args:
        tolerance: largest difference to the CPU's latents in fp32, as a part of their spread.
    """
    server, _ = machine
    seeds = [next(_seeds) for _ in range(len(kinds) + 1)]
    expected = [latents(server, graph, device="cpu", seed=seed) for seed in seeds]
    assert expected[0].std() > 0.01, "a constant result would equal anything"
    actual = []
    for kind, seed in zip(kinds, seeds, strict=False):
        with next_fault(machine, "sampler", step=1, operator="aten::addmm", kind=kind):
            actual.append(latents(server, graph, device=device, seed=seed, stock=stock))
    actual.append(latents(server, graph, device=device, seed=seeds[-1], stock=stock))
    for found, right in zip(actual, expected, strict=True):
        assert (found - right).abs().max() <= tolerance * right.std()


def noise_schedule() -> Workflow:
    """A node that puts a module with tensors of its own on the model."""
    graph = sd3()
    graph["schedule"] = node("ModelSamplingSD3", model=["checkpoint", 0], shift=2.0)
    graph["sampler"]["inputs"].update(model=["schedule", 0], steps=3)
    return graph


def hooked_lora() -> Workflow:
    """A LoRA for the positive condition alone, whose strength changes from step to step."""
    graph = text_to_image(steps=3)
    name = "lora-sd15-tiny.safetensors"
    graph["lora"] = node("CreateHookLora", lora_name=name, strength_model=1.0, strength_clip=1.0)
    change = {"strength_start": 1.0, "strength_end": 0.2, "interpolation": "linear", "keyframes_count": 3}
    part = {"start_percent": 0.0, "end_percent": 1.0, "print_keyframes": False}
    graph["keyframes"] = node("CreateHookKeyframesInterpolated", **change, **part)
    graph["hook"] = node("SetHookKeyframes", hooks=["lora", 0], hook_kf=["keyframes", 0])
    graph["hooked"] = node(
        "ConditioningSetProperties", cond_NEW=["positive", 0], strength=1.0, set_cond_area="default", hooks=["hook", 0]
    )
    graph["sampler"]["inputs"]["positive"] = ["hooked", 0]
    return graph


def self_attention_guidance() -> Workflow:
    """An attention patch that records, and guidance that uses the record."""
    graph = text_to_image(steps=3)
    graph["guided"] = node("SelfAttentionGuidance", model=["checkpoint", 0], scale=0.5, blur_sigma=2.0)
    graph["sampler"]["inputs"]["model"] = ["guided", 0]
    return graph


@pytest.mark.parametrize(
    "graph", [noise_schedule, hooked_lora, self_attention_guidance], ids=lambda graph: graph.__name__
)
def test_what_nodes_put_on_a_model(machine: Machine, graph: Callable[[], Workflow]) -> None:
    assert_a_fault_costs_nothing(machine, graph(), "out_of_resources", "device_lost")


def test_a_controlnet_of_the_stock_loader_follows_the_model(machine: Machine) -> None:
    """To the last device, which is not ComfyUI's default, and from there to another; it computes in fp16."""
    last, kinds = f"xpu:{DEVICES - 1}", ("nan", "device_lost")
    assert_a_fault_costs_nothing(machine, controlnet(), *kinds, device=last, stock=("control",), tolerance=0.01)


TILES = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}


def decoded_in_tiles(number: int) -> Workflow:
    graph = {"checkpoint": text_to_image()["checkpoint"]}
    graph["latent"] = node("TestLatent", width=12, height=8, value=number / 50)
    graph["stage"] = node("VAEDecodeTiled", samples=["latent", 0], vae=["checkpoint", 2], **TILES)
    return graph


def encoded_in_tiles(number: int) -> Workflow:
    graph = {"checkpoint": text_to_image()["checkpoint"]}
    graph["picture"] = node("EmptyImage", width=96, height=64, batch_size=1, color=number << 9)
    graph["stage"] = node("VAEEncodeTiled", pixels=["picture", 0], vae=["checkpoint", 2], **TILES)
    return graph


def image_encoded(number: int) -> Workflow:
    graph = {"vision": node("CLIPVisionLoader", clip_name="clip-vision-l.safetensors")}
    graph["picture"] = node("EmptyImage", width=224, height=224, batch_size=1, color=number << 9)
    graph["stage"] = node("CLIPVisionEncode", clip_vision=["vision", 0], image=["picture", 0], crop="center")
    return graph


@pytest.mark.parametrize(
    ("graph", "kind"),
    [(decoded_in_tiles, "device_lost"), (encoded_in_tiles, "out_of_resources"), (image_encoded, "device_lost")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_stages_of_stock_nodes(machine: Machine, graph: Callable[[int], Workflow], kind: str) -> None:
    server, _ = machine

    def answer(number: int, device: str) -> torch.Tensor:
        placed = with_our_nodes(graph(number), device=device, precision="fp32")
        return dumped(server, placed, ["stage", 0], "stage")

    numbers = [next(_seeds), next(_seeds)]
    expected = [answer(number, "cpu") for number in numbers]
    with next_fault(machine, "stage", step=0, operator="aten::convolution", kind=kind):
        actual = answer(numbers[0], "auto")
    after = answer(numbers[1], "auto")
    for found, right in zip((actual, after), expected, strict=True):  # VAEs attend in another way on the CPU
        torch.testing.assert_close(found, right, atol=1e-3, rtol=0)
