"""A quantised model on devices whose own product is right and faster, slower, or wrong; see `worker.py`."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management as model_management
import comfy.ops
import comfy.sample
import folder_paths
import torch

from tests import xpu_sim
from tests.families import formats
from tests.families.family import conditioning
from xpu_utils.host import gates, hooks
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading.load import load_diffusion_model
from xpu_utils.host.running.sampling import place_model
from xpu_utils.machine.cache import DIRECTORY_VARIABLE
from xpu_utils.selftest.gates import GateTests
from xpu_utils.selftest.products import Product

FOLDER = Path(tempfile.mkdtemp())
NAME = "model.safetensors"
formats._write("mixed-fp8", FOLDER / NAME)
folder_paths.add_model_folder_path("diffusion_models", str(FOLDER))

FASTER = Product("fp8_e4m3", relative_error=0.002, seconds=1.0, unpacked_seconds=2.0)
SLOWER = Product("fp8_e4m3", relative_error=0.002, seconds=2.0, unpacked_seconds=1.0)


@contextlib.contextmanager
def tested_as(tests: GateTests) -> Iterator[None]:
    """In the block, devices are what these tests find."""
    before = gates.is_open, gates.product, gates.known
    gates.is_open, gates.product, gates.known = tests.is_open, tests.product, tests.known
    with tempfile.TemporaryDirectory() as folder:
        os.environ[DIRECTORY_VARIABLE] = folder  # nothing is known
        try:
            yield
        finally:
            gates.is_open, gates.product, gates.known = before


def found(product: Product) -> GateTests:
    """Tests that find this on any device."""
    return GateTests(check=lambda device, name: product)


def sampled(device: str, model: Any = None) -> dict[str, Any]:
    """What a model, or the file, gives on a device; and how often that multiplied in fp8."""
    if model is None:
        model, _ = load_diffusion_model(NAME, "default", placement_for(device, "auto", "all"))
    xpu_sim.current().reset_statistics()
    latent = torch.zeros(formats.SD3_256.latent)
    noise = comfy.sample.prepare_noise(latent, 7)
    text = conditioning(formats.SD3_256, 1)
    answer = comfy.sample.sample(model, noise, 2, 1.0, "euler", "normal", text, text, latent, disable_pbar=True, seed=7)
    products = xpu_sim.current().statistics().devices[0].count("_scaled_mm*")
    (hook,) = (hook for hook in hooks.listed() if hook.name == gates.HOOK)
    return {"model": model, "answer": answer.cpu(), "products": products, "state": hook.state.value, "why": hook.reason}


def case_outlook() -> Any:
    """What is noted before a file is read, by resident share and device; the second device has 64 MiB."""
    asked = [("xpu:0", "auto"), ("xpu:0", "10%"), ("xpu:1", "auto"), ("cpu", "auto")]
    with tested_as(found(SLOWER)):
        return [
            load_diffusion_model(NAME, "default", placement_for(device, "auto", resident))[1].notes[0]
            for device, resident in asked
        ]


def on_cpu(model: Any) -> dict[str, Any]:
    """What a model gives once it was carried there."""
    return sampled("cpu", place_model(model, placement_for("cpu", "auto", "all"))[0])


def case_gates() -> Any:
    answers = {}
    with tested_as(found(SLOWER)):
        answers["slower"] = sampled("xpu:0")
        answers["slower, on the CPU"] = on_cpu(answers["slower"]["model"])
    with tested_as(found(FASTER)):
        answers["faster"] = sampled("xpu:0")
        answers["carried to the CPU"] = on_cpu(answers["faster"]["model"])
    xpu_sim.current().set_faults([xpu_sim.Fault(operator="aten::_scaled_mm*", kind="wrong_result", times=None)])
    with tested_as(GateTests()):
        answers["wrong"] = sampled("xpu:0")
    xpu_sim.current().set_faults([])
    plain = answers["slower"]["answer"].double()
    return {
        "by format": "disabled" in inspect.signature(comfy.ops.mixed_precision_ops).parameters,
        "the host's answer afterwards": bool(model_management.supports_fp8_compute(torch.device("xpu:0"))),
        **{
            name: {
                **{key: answer[key] for key in ("products", "state", "why")},
                "distance": float((answer["answer"].double() - plain).norm() / plain.norm()),
            }
            for name, answer in answers.items()
        },
    }
