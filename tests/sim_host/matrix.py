"""Faults at every stage of a prompt: how one is set off, and what came of it."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from tests.harness.client import Result
from tests.harness.server import Server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation

STEPS = 4
SAMPLERS = ("euler", "heun", "dpmpp_2m", "uni_pc", "euler_cfg_pp", "deis")
"""Deterministic samplers: they draw no noise while they sample."""

STAGES = ("load", "encode text", "first step", "middle step", "last step", "decode", "upscale")
PASSING = ("out_of_memory", "out_of_device_memory", "out_of_resources", "native_api_39", "invalid_argument", "nan")
"""Kinds of fault after which the device works again."""

# Stage -> (the event that sets it off: node, and step where it is a sampling step; the operator that fails)
_TRIGGERS: dict[str, tuple[str, int, str]] = {
    "load": ("checkpoint", 0, "runtime::malloc"),
    "encode text": ("positive", 0, "aten::addmm"),
    "first step": ("sampler", 0, "aten::convolution"),
    "middle step": ("sampler", 2, "aten::convolution"),
    "last step": ("sampler", STEPS - 1, "aten::convolution"),
    "decode": ("decode", 0, "aten::convolution"),
    "upscale": ("upscaled", 0, "aten::convolution"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault at one stage of one prompt."""

    stage: str
    kind: str
    sampler: str = "euler"

    def __str__(self) -> str:
        return f"{self.stage}-{self.kind}-{self.sampler}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a prompt."""

    case: Case
    message: str
    """The error's sentence; empty where there is a picture."""
    picture: np.ndarray[Any, Any] | None
    devices: tuple[str, ...]
    """The devices its stages ended on."""
    reports: tuple[str, ...]
    """What the nodes said of faults."""
    convolutions: int
    """Convolutions executed on all devices."""
    fired: bool
    """Whether the fault was set off."""


def graph(sampler: str, *, precision: str = "fp32") -> Workflow:
    """Text to a picture, upscaled; all by our loaders, sampler and decoder."""
    workflow = text_to_image(steps=STEPS, sampler=sampler)
    workflow["upscaler"] = node("UpscaleModelLoader", model_name="upscaler-2x.safetensors")
    workflow["upscaled"] = node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["decode", 0])
    workflow["save"]["inputs"]["images"] = ["upscaled", 0]
    return with_our_nodes(workflow, precision=precision)


def run_case(server: Server, simulation: Simulation, case: Case | None, workflow: Workflow) -> Outcome:
    """Runs the workflow and sets the case's fault off when its stage begins (none for no case)."""
    simulation.set_faults()
    simulation.reset_statistics()
    fired = False

    def follow(kind: str, data: dict[str, Any]) -> None:
        nonlocal fired
        if case is not None and not fired and _begins(case.stage, kind, data):
            fired = True
            simulation.set_faults({"operator": _TRIGGERS[case.stage][2], "kind": case.kind})

    result = server.client.run(workflow, on_event=follow, timeout_s=300)
    counts = simulation.statistics()
    simulation.set_faults()
    stages = [stage for output in result.outputs.values() for stage in output.get("xpu", [])]
    return Outcome(
        case=case or Case("none", "none"),
        message=result.message,
        picture=None if result.error else picture(server, result),
        devices=tuple(stage["effective"] for stage in stages),
        reports=tuple(text for output in result.outputs.values() for text in output.get("text", ())),
        convolutions=sum(device.executed.get("aten::convolution", 0) for device in counts.devices),
        fired=fired,
    )


def row(outcome: Outcome, expected: Outcome) -> dict[str, Any]:
    """The outcome as a row of docs/reliability.md's results."""
    case = outcome.case
    equal = outcome.picture is not None and np.array_equal(outcome.picture, expected.picture)
    return {
        "stage": case.stage,
        "kind": case.kind,
        "sampler": case.sampler,
        "fired": outcome.fired,
        "equal": bool(equal),
        "message": outcome.message.strip(),
    }


def _begins(stage: str, kind: str, data: dict[str, Any]) -> bool:
    node_id, step, _ = _TRIGGERS[stage]
    if step:
        return kind == "progress" and data.get("node") == node_id and data["value"] == step
    return kind == "executing" and data.get("node") == node_id


def picture(server: Server, result: Result) -> np.ndarray[Any, Any]:
    """The saved picture, (H, W, 3) in 0..255."""
    return np.asarray(Image.open(io.BytesIO(server.client.image(result, "save"))), dtype=np.int16)
