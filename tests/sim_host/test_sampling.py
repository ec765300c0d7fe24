"""Whatever samples a placed model and whatever it is given: a fault in the middle of it costs nothing.

The undisturbed result is computed on the CPU. That the one on the device equals it bit for bit also shows that noise
does not depend on the device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.harness.server import Server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes
from tests.host.conftest import PACKS, dumped
from tests.host.graphs import controlnet, custom_sampler, lora, sd3
from tests.xpu_sim.control import Client as Simulation

from .matrix import OUT, faulty_server, next_fault

Machine = tuple[Server, Simulation]

PASSING = ("out_of_resources", "xpu:0")
"""A kind of fault, and the device that is asked for: repeated there."""
MOVING = ("nan", "xpu:1")
"""In fp32 the model goes on on another device."""
SAMPLERS = (
    "euler",
    "euler_ancestral_cfg_pp",
    "dpm_adaptive",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde_gpu",
    "lcm",
    "ipndm_v",
    "uni_pc",
)
"""One of every way to step and to draw noise."""
FAULTS = pytest.mark.parametrize("fault", [PASSING, MOVING], ids=["repeated", "moved"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    layouts = ("sd3-tiny", "wan-tiny", "lora-sd15-tiny", "controlnet-sd15-tiny")
    with faulty_server(
        tmp_path_factory.mktemp("sampling"), *layouts, packs=PACKS, arguments=("--cache-lru", "99")
    ) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def results() -> Iterator[dict[str, bool]]:
    """What was sampled and whether the fault cost nothing, for docs/measurements/reliability.md."""
    found: dict[str, bool] = {}
    yield found
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "sampling.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def sampled(server: Server, graph: Workflow, *, device: str) -> torch.Tensor:
    placed = with_our_nodes(graph, device=device, precision="fp32")
    del placed["decode"], placed["save"]
    for name, entry in placed.items():
        if name.startswith("place-"):
            entry["inputs"].update(device=device)
    return dumped(server, placed, ["sampler", 0], f"sampled-{device.replace(':', '')}")


def assert_a_fault_costs_nothing(
    machine: Machine,
    results: dict[str, bool],
    name: str,
    graph: Workflow,
    fault: tuple[str, str] = PASSING,
    undisturbed_on: str = "cpu",
) -> None:
    server, _ = machine
    kind, device = fault
    name = name if fault == PASSING else f"{name}, moved"
    results[name] = False
    expected = sampled(server, graph, device=undisturbed_on)
    assert torch.isfinite(expected).all()
    assert expected.std() > 0.01, "a constant result would equal anything"
    with next_fault(machine, "sampler", step=1, operator="aten::addmm", kind=kind):  # the second step's first product
        actual = sampled(server, graph, device=device)
    results[name] = torch.equal(actual, expected)
    assert results[name], name


@pytest.mark.parametrize("covering", [True, pytest.param(False, marks=pytest.mark.matrix)], ids=["some", "all"])
def test_samplers(machine: Machine, results: dict[str, bool], covering: bool) -> None:
    """On a model that computes little, as one that predicts noise: what all samplers were made for."""
    server, _ = machine
    inputs = server.client.get("/object_info/KSampler")["KSampler"]["input"]["required"]
    samplers, schedulers = inputs["sampler_name"][0], inputs["scheduler"][0]
    assert len(samplers) > 30
    for number, sampler in enumerate(SAMPLERS if covering else samplers):
        graph = video()
        graph["noise"] = node("ModelSamplingDiscrete", model=["unet", 0], sampling="eps", zsnr=False)
        scheduler = schedulers[number % len(schedulers)]
        graph["sampler"]["inputs"].update(model=["noise", 0], sampler_name=sampler, scheduler=scheduler, steps=4)
        assert_a_fault_costs_nothing(machine, results, sampler, graph)
    assert "memory leak" not in server.log_text(), "ComfyUI has lost whose the weights on the device are"


def regional() -> Workflow:
    """Conditions that hold for an area, for a mask, and for a part of the steps."""
    graph = text_to_image(steps=4, size=128)
    text = node("CLIPTextEncode", clip=["checkpoint", 1], text="a red boat")
    graph["boat"], graph["rock"] = text, {**text, "inputs": {**text["inputs"], "text": "a black rock"}}
    graph["area"] = node("ConditioningSetArea", conditioning=["boat", 0], width=64, height=64, x=32, y=16, strength=1.0)
    graph["solid"] = node("SolidMask", value=1.0, width=128, height=128)
    graph["mask"] = node("FeatherMask", mask=["solid", 0], left=48, top=0, right=0, bottom=0)
    graph["masked"] = node(
        "ConditioningSetMask", conditioning=["rock", 0], mask=["mask", 0], strength=1.0, set_cond_area="default"
    )
    graph["late"] = node("ConditioningSetTimestepRange", conditioning=["masked", 0], start=0.0, end=0.6)
    graph["two"] = node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["area", 0])
    graph["three"] = node("ConditioningCombine", conditioning_1=["two", 0], conditioning_2=["late", 0])
    graph["sampler"]["inputs"]["positive"] = ["three", 0]
    return graph


def masked() -> Workflow:
    graph = text_to_image(steps=4)
    graph["solid"] = node("SolidMask", value=1.0, width=64, height=64)
    graph["mask"] = node("FeatherMask", mask=["solid", 0], left=16, top=16, right=16, bottom=16)
    graph["masked"] = node("SetLatentNoiseMask", samples=["latent", 0], mask=["mask", 0])
    graph["sampler"]["inputs"].update(latent_image=["masked", 0], denoise=0.7)
    return graph


def streamed() -> Workflow:
    graph = text_to_image(steps=3)
    graph["checkpoint"]["inputs"]["resident"] = "45%"
    return graph


def batch() -> Workflow:
    return text_to_image(steps=3, batch=3)


def video() -> Workflow:
    """Frames of a video model; its latents have a dimension for time."""
    graph = text_to_image(steps=3)
    del graph["checkpoint"]
    graph["unet"] = node("UNETLoader", unet_name="wan-tiny.safetensors", weight_dtype="default")
    for seed, name in enumerate(("positive", "negative")):
        graph[name] = node("TestConditioning", tokens=12, width=4096, seed=seed)
    graph["latent"] = node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
    graph["sampler"]["inputs"]["model"] = ["unet", 0]
    return graph


def with_guider(guider: str) -> Workflow:
    """SamplerCustomAdvanced on a model from the stock loader, placed by our node."""
    graph = custom_sampler(text_to_image(), placed=True)
    graph["third"] = node("CLIPTextEncode", clip=["place-clip", 0], text="fog")
    model, positive, negative = ["place-model", 0], ["positive", 0], ["negative", 0]
    graph["guider"] = {
        "BasicGuider": node("BasicGuider", model=model, conditioning=positive),
        "CFGGuider": graph["guider"],
        "DualCFGGuider": node(
            "DualCFGGuider",
            model=model,
            cond1=positive,
            cond2=["third", 0],
            negative=negative,
            cfg_conds=5.0,
            cfg_cond2_negative=3.0,
            style="regular",
        ),
    }[guider]
    return graph


@FAULTS
@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider", "DualCFGGuider"])
def test_every_guider(machine: Machine, results: dict[str, bool], guider: str, fault: tuple[str, str]) -> None:
    assert_a_fault_costs_nothing(machine, results, guider, with_guider(guider), fault)


@FAULTS
@pytest.mark.parametrize(
    "graph", [regional, masked, streamed, batch, video, lora, controlnet, sd3], ids=lambda graph: graph.__name__
)
def test_what_a_sampler_is_given(
    machine: Machine, results: dict[str, bool], graph: Callable[[], Workflow], fault: tuple[str, str]
) -> None:
    workflow = graph()
    undisturbed_on = "cpu"
    if graph is lora:
        # Newer hosts patch weights in fp16 where the device computes in it, and in fp32 on the CPU.
        undisturbed_on = {PASSING: "xpu:1", MOVING: "xpu:0"}[fault]
        # Both devices sample for both faults: ComfyUI must not find the other's result in its cache.
        workflow["sampler"]["inputs"]["seed"] = [PASSING, MOVING].index(fault)
    assert_a_fault_costs_nothing(machine, results, graph.__name__, workflow, fault, undisturbed_on)


GUIDANCE: dict[str, tuple[Callable[[], Workflow], dict[str, object]]] = {
    "SelfAttentionGuidance": (text_to_image, {"scale": 0.5, "blur_sigma": 2.0}),
    "PerturbedAttentionGuidance": (text_to_image, {"scale": 3.0}),
    "PerpNeg": (text_to_image, {"empty_conditioning": ["negative", 0], "neg_scale": 1.0}),
    "RescaleCFG": (text_to_image, {"multiplier": 0.7}),
    "DifferentialDiffusion": (masked, {}),
    "SkipLayerGuidanceSD3": (sd3, {"layers": "0", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0}),
}
"""ComfyUI's nodes that put guidance on a model -> what they are used with, and their inputs."""


@pytest.mark.parametrize("name", GUIDANCE)
def test_every_guidance(machine: Machine, results: dict[str, bool], name: str) -> None:
    make, inputs = GUIDANCE[name]
    graph = make()
    graph["guided"] = node(name, model=["checkpoint", 0], **inputs)
    graph["sampler"]["inputs"]["model"] = ["guided", 0]
    assert_a_fault_costs_nothing(machine, results, name, graph)
