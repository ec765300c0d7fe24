"""Faults at every stage of a prompt: how one is set off, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from tests.harness.client import Result
from tests.harness.hosts import ROOT
from tests.harness.models import ensure_models
from tests.harness.server import PACK_NAME, Server
from tests.harness.simulated import simulated_server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation
from xpu_utils.recovery.watch import VARIABLE

OUT = ROOT / "out" / "reliability"
"""Where results are kept for docs/measurements/reliability.md."""

STEPS = 4
SAMPLERS = ("euler", "heun", "dpmpp_2m", "uni_pc", "euler_cfg_pp", "deis")
"""Deterministic samplers: they draw no noise while they sample."""

STAGES = ("load", "encode text", "first step", "middle step", "last step", "decode", "upscale")
PASSING = (
    *("out_of_memory", "out_of_device_memory", "out_of_resources", "native_api_39"),
    *("allocation too large", "invalid_argument", "nan"),
    *("UR error", "PI error", "over 4 GB", "primitive", "module build", "missing kernel"),
)
"""Kinds of fault after which the device works again."""
LOST, HANG = "device_lost", "hang"
LASTING = (LOST, HANG)
"""Kinds after which it is left alone."""
IMPATIENT = {VARIABLE: "2"}
"""A server's environment in which a card that hangs is given up after seconds."""
UNKNOWN = "unknown"
"""The kind of fault that nobody knows: shown as it came."""
ODD_MESSAGE = "the moon is full"

# Kinds that are not the simulation's own -> their messages.
_MESSAGES = {
    "allocation too large": "level_zero backend failed with error: 61 (UR_RESULT_ERROR_INVALID_BUFFER_SIZE)",
    "UR error": "UR error",
    "PI error": "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES) -5 (PI_ERROR_OUT_OF_RESOURCES)",
    "over 4 GB": "Current platform can NOT allocate memory block with size larger than 4GB! Tried to allocate 7.03 GiB",
    "primitive": "could not create a primitive",
    "module build": "level_zero backend failed with error: 17 (UR_RESULT_ERROR_PROGRAM_BUILD_FAILURE)",
    "missing kernel": "DispatchStub: missing kernel for xpu",
    UNKNOWN: ODD_MESSAGE,
}

# More device than host memory, so that ComfyUI's loaders put weights onto the device at once.
_DEVICE = {"preset": "arc-b580", "total_bytes": 64 << 30}
_FAULT_PACK = Path(__file__).with_name("fault_pack")

# Stage -> (the event that sets it off: node, and steps done where it is a sampling step; the operator that fails)
_TRIGGERS: dict[str, tuple[str, int, str]] = {
    "load": ("checkpoint", 0, "runtime::malloc"),
    "encode text": ("positive", 0, "aten::addmm"),
    "first step": ("sampler", 0, "aten::convolution"),
    "middle step": ("sampler", 2, "aten::convolution"),
    "last step": ("sampler", STEPS - 1, "aten::convolution"),
    "decode": ("decode", 0, "aten::convolution"),
    "upscale": ("upscaled", 0, "aten::convolution"),
}


_SWITCH = "xpu-nodes.protect"
_CHOICES = dict.fromkeys(("device", "precision", "resident", "locked"), "auto")
_CHOICES |= {"seeds": "as ComfyUI", "exempt": "", "takeover": "yes", "hooks": ""}


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault at one stage of one prompt."""

    stage: str
    kind: str
    workflow: str = "euler"
    """One of `WORKFLOWS`."""

    def __str__(self) -> str:
        return f"{self.stage}-{self.kind}-{self.workflow}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a prompt."""

    case: Case
    message: str
    """The error's sentence; empty where there is a picture."""
    picture: np.ndarray[Any, Any] | None
    devices: tuple[str, ...]
    """The devices its stages ended on."""
    precisions: tuple[str, ...]
    """The formats that they computed in."""
    reports: tuple[str, ...]
    """What the nodes said of faults."""
    calls: int
    """Calls of the diffusion model, failed ones included."""
    rungs: tuple[str, ...]
    """The names of the rungs that were taken, in order."""
    fired: bool
    """Whether the fault happened."""


def faulty_server(
    base: Path,
    *layouts: str,
    devices: int = 2,
    arguments: Sequence[str] = ("--cache-none",),
    packs: Mapping[str, Path] = MappingProxyType({PACK_NAME: ROOT}),
    **options: Any,
) -> contextlib.AbstractContextManager[tuple[Server, Simulation]]:
    """A server on equal devices, for `set_next_fault`; by default it executes every node of every prompt anew."""
    models = ensure_models("sd15-tiny", "upscaler-2x", *layouts)
    packs = {**packs, "fault-pack": _FAULT_PACK}
    return simulated_server(
        base, {"devices": [_DEVICE] * devices}, models=models, packs=packs, arguments=arguments, **options
    )


def graph(sampler: str, *, precision: str = "fp32", resident: str = "auto") -> Workflow:
    """Text to a picture, upscaled; all by our loaders, sampler and decoder."""
    workflow = text_to_image(steps=STEPS, sampler=sampler)
    workflow["checkpoint"]["inputs"]["resident"] = resident
    workflow["negative"] = node("ConditioningZeroOut", conditioning=["positive", 0])
    workflow["upscaler"] = node("UpscaleModelLoader", model_name="upscaler-2x.safetensors")
    workflow["upscaled"] = node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["decode", 0])
    workflow["save"]["inputs"]["images"] = ["upscaled", 0]
    return with_our_nodes(workflow, precision=precision)


WORKFLOWS = {
    **{sampler: graph(sampler) for sampler in SAMPLERS},
    "euler, 45 % resident": graph("euler", resident="45%"),
}
"""What faults are met in, by its name in the results."""


@contextlib.contextmanager
def switched_on(server: Server, **choices: str) -> Iterator[None]:
    """The switch on for the prompts in the block, with these choices beside it."""
    settings = {f"{_SWITCH}.{name}": value for name, value in {**_CHOICES, **choices}.items()}
    server.client.post("/settings", {_SWITCH: True, **settings})
    try:
        yield
    finally:
        server.client.post("/settings", {_SWITCH: False})


def psnr_db(given: Any, expected: Any) -> float:
    """Peak signal-to-noise ratio of two pictures in 0..255; infinite for equal ones."""
    error = float(np.square(given - expected, dtype=np.float64).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@contextlib.contextmanager
def next_fault(machine: tuple[Server, Simulation], node_id: str, *, step: int, **fault: object) -> Iterator[None]:
    """`set_next_fault` for what is run in the block, in which it must happen."""
    server, simulation = machine
    simulation.set_faults()
    set_next_fault(server, node_id, step=step, **fault)
    try:
        yield
        assert any(simulation.statistics().faults_fired), "nothing failed"
    finally:
        simulation.set_faults()


def set_next_fault(server: Server, node_id: str, *, step: int, also: Sequence[object] = (), **fault: object) -> None:
    """Has faults set when the server begins with a node, or has done as many of its steps; see fault_pack.

    Args:
        also: further faults, set with this one.
    """
    server.client.post("/fault_pack/next", {"node": node_id, "step": step, "faults": [fault, *also]})


def fault_of(kind: str) -> dict[str, str]:
    """The simulation's fault of a case's kind."""
    return {"kind": "error", "message": _MESSAGES[kind]} if kind in _MESSAGES else {"kind": kind}


def run_case(
    server: Server, simulation: Simulation, case: Case | None, workflow: Workflow, *, timeout_s: float = 300
) -> Outcome:
    """Runs the workflow and sets the case's fault when its stage begins (none for no case).

    Raises:
        TimeoutError: the prompt did not end in time.
    """
    simulation.set_faults()
    simulation.reset_statistics()
    if case is not None:
        node_id, step, operator = _TRIGGERS[case.stage]
        set_next_fault(server, node_id, step=step, operator=operator, **fault_of(case.kind))
    server.client.post("/fault_pack/calls", {})
    result = server.client.run(workflow, timeout_s=timeout_s)
    counts = simulation.statistics()
    simulation.set_faults()
    stages = [stage for output in result.outputs.values() for stage in output.get("xpu", [])]
    return Outcome(
        case=case or Case("none", "none"),
        message=result.message,
        picture=None if result.error else picture(server, result),
        devices=tuple(stage["effective"] for stage in stages),
        precisions=tuple(stage["precision"] for stage in stages),
        reports=tuple(text for output in result.outputs.values() for text in output.get("text", ())),
        calls=server.client.get("/fault_pack/calls")["calls"],
        rungs=rungs_of(server, result),
        fired=any(counts.faults_fired),
    )


def rungs_of(server: Server, result: Result) -> tuple[str, ...]:
    """What the job log says was done for a prompt; nothing where the pack is not there."""
    if not (server.base / "custom_nodes" / PACK_NAME).exists():
        return ()
    jobs = {job["prompt_id"]: job for job in server.client.get("/xpu/jobs")["jobs"]}
    return tuple(fault["rung_name"] for fault in jobs.get(result.prompt_id, {"faults": ()})["faults"])


def row(outcome: Outcome, expected: Outcome) -> dict[str, Any]:
    """The outcome as a row of docs/measurements/reliability.md's results."""
    case = outcome.case
    equal = outcome.picture is not None and np.array_equal(outcome.picture, expected.picture)
    return {
        "stage": case.stage,
        "kind": case.kind,
        "workflow": case.workflow,
        "fired": outcome.fired,
        "equal": bool(equal),
        "extra_calls": outcome.calls - expected.calls,
        "rungs": list(outcome.rungs),
        "message": outcome.message.strip(),
    }


def picture(server: Server, result: Result) -> np.ndarray[Any, Any]:
    """The saved picture, (H, W, 3) in 0..255."""
    return np.asarray(Image.open(io.BytesIO(server.client.image(result, "save"))), dtype=np.int16)
