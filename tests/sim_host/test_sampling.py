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

from .matrix import OUT, faulty_server, set_next_fault

Machine = tuple[Server, Simulation]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    layouts = ("sd3-tiny", "wan-tiny", "lora-sd15-tiny", "controlnet-sd15-tiny")
    with faulty_server(
        tmp_path_factory.mktemp("sampling"), *layouts, packs=PACKS, arguments=("--cache-lru", "99")
    ) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def results() -> Iterator[dict[str, bool]]:
    """What was sampled and whether the fault cost nothing, for docs/reliability.md."""
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


def assert_a_fault_costs_nothing(machine: Machine, results: dict[str, bool], name: str, graph: Workflow) -> None:
    server, simulation = machine
    results[name] = False
    expected = sampled(server, graph, device="cpu")
    assert torch.isfinite(expected).all()
    assert expected.std() > 0.01, "a constant result would equal anything"
    simulation.set_faults()
    # The model's first product in the second step.
    set_next_fault(server, "sampler", step=1, operator="aten::addmm", kind="out_of_resources")
    actual = sampled(server, graph, device="xpu:0")
    assert any(simulation.statistics().faults_fired), "nothing failed"
    simulation.set_faults()
    results[name] = torch.equal(actual, expected)
    assert results[name], name


def test_every_sampler(machine: Machine, results: dict[str, bool]) -> None:
    server, _ = machine
    inputs = server.client.get("/object_info/KSampler")["KSampler"]["input"]["required"]
    samplers, schedulers = inputs["sampler_name"][0], inputs["scheduler"][0]
    assert len(samplers) > 30
    for number, sampler in enumerate(samplers):
        graph = text_to_image(steps=4, sampler=sampler, size=32)
        graph["sampler"]["inputs"]["scheduler"] = schedulers[number % len(schedulers)]
        assert_a_fault_costs_nothing(machine, results, sampler, graph)


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


@pytest.mark.parametrize("guider", ["BasicGuider", "CFGGuider", "DualCFGGuider"])
def test_every_guider(machine: Machine, results: dict[str, bool], guider: str) -> None:
    assert_a_fault_costs_nothing(machine, results, guider, with_guider(guider))


@pytest.mark.parametrize(
    "graph", [regional, masked, batch, video, lora, controlnet, sd3], ids=lambda graph: graph.__name__
)
def test_what_a_sampler_is_given(machine: Machine, results: dict[str, bool], graph: Callable[[], Workflow]) -> None:
    assert_a_fault_costs_nothing(machine, results, graph.__name__, graph())
