"""A quantised model on devices whose own product is right and faster, slower, or wrong; see `worker.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.model_management as model_management
import comfy.ops
import comfy.sample
import folder_paths
import torch
from comfy.latent_formats import LatentFormat

from tests import xpu_sim
from tests.families import formats
from tests.families.family import conditioning, configured
from tests.families.listing import MODELS
from tests.unit.test_forecast import write
from xpu_utils.forecast import Forecast, Size, forecast
from xpu_utils.host import gates, hooks
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import outlook, work
from xpu_utils.host.loading.load import load_diffusion_model
from xpu_utils.host.running.sampling import place_model
from xpu_utils.machine.cache import DIRECTORY_VARIABLE
from xpu_utils.placement import Placement
from xpu_utils.selftest import products
from xpu_utils.selftest.gates import GateTests
from xpu_utils.selftest.products import Product, check_product

FOLDER = Path(tempfile.mkdtemp())
BY_FORMAT = "disabled" in inspect.signature(getattr(comfy.ops, "mixed_precision_ops", lambda: None)).parameters
FILES = {"fp8_e4m3": "mixed-fp8", **({"nvfp4": "nvfp4", "mxfp8": "mxfp8"} if BY_FORMAT else {})}
"""By format, the name that `tests.families.formats` has for it; the host's other formats are always computed in."""
for kind in ("fp8", *FILES.values()):
    formats._write(kind, FOLDER / f"{kind}.safetensors")
NAME = "mixed-fp8.safetensors"
folder_paths.add_model_folder_path("diffusion_models", str(FOLDER))

SLOWER = Product("fp8_e4m3", relative_error=0.002, seconds=2.0, unpacked_seconds=1.0)
multiplied: list[str] = []
"""The products of blocks that were asked for: no CPU has them, and the simulated devices have what it has."""
products.HOPELESS = 0  # the times of large layers are not the point


@contextlib.contextmanager
def tested_as(tests: GateTests) -> Iterator[None]:
    """In the block, devices are what these tests find."""
    before = gates.is_open, gates.product
    gates.is_open, gates.product = tests.is_open, tests.product
    with tempfile.TemporaryDirectory() as folder:
        os.environ[DIRECTORY_VARIABLE] = folder  # nothing is known
        try:
            yield
        finally:
            gates.is_open, gates.product = before


def found(product: Product) -> GateTests:
    """Tests that find this on any device."""
    return GateTests(check=lambda device, name: product)


def faster(name: str = "fp8_e4m3") -> GateTests:
    return found(Product(name, relative_error=0.002, seconds=1.0, unpacked_seconds=2.0))


def multiply_blocks() -> None:
    """Gives comfy-kitchen products of blocks, by what the numbers stand for."""
    import comfy_kitchen as kitchen

    def multiply(x: Any, weights: Any, bias: Any = None) -> Any:
        multiplied.append("")
        return torch.nn.functional.linear(x, weights, bias)

    def nvfp4(a: Any, b: Any, *, bias: Any = None, out_dtype: Any, **scales: Any) -> Any:
        by_side = {side: (scales[f"tensor_scale_{side}"], scales[f"block_scale_{side}"]) for side in "ab"}
        x, weights = (kitchen.dequantize_nvfp4(one, *by_side[side], out_dtype) for one, side in ((a, "a"), (b, "b")))
        return multiply(x, weights, bias)

    def mxfp8(a: Any, b: Any, *, block_scale_a: Any, block_scale_b: Any, bias: Any = None, out_dtype: Any) -> Any:
        pairs = ((a, block_scale_a), (b, block_scale_b))
        return multiply(*(kitchen.dequantize_mxfp8(*pair, out_dtype) for pair in pairs), bias)

    kitchen.scaled_mm_nvfp4, kitchen.scaled_mm_mxfp8 = nvfp4, mxfp8


def sampled(device: str, model: Any = None, *, name: str = NAME, resident: str = "all") -> dict[str, Any]:
    """What a model, or a file, gives on a device; and how often that multiplied in the file's format."""
    if model is None:
        model, _ = load_diffusion_model(name, "default", placement_for(device, "auto", resident))
    xpu_sim.current().reset_statistics()
    multiplied.clear()
    latent = torch.zeros(formats.SD3_256.latent)
    noise = comfy.sample.prepare_noise(latent, 7)
    text = conditioning(formats.SD3_256, 1)
    answer = comfy.sample.sample(model, noise, 2, 1.0, "euler", "normal", text, text, latent, disable_pbar=True, seed=7)
    products = xpu_sim.current().statistics().devices[0].count("_scaled_mm*") + len(multiplied)
    (hook,) = (hook for hook in hooks.listed() if hook.name == gates.HOOK)
    return {"model": model, "answer": answer.cpu(), "products": products, "state": hook.state.value, "why": hook.reason}


def case_outlook() -> Any:
    """What is noted before a file is read, by resident share and device; the second device has 64 MiB."""
    asked = [("xpu:0", "auto"), ("xpu:0", "10%"), ("xpu:1", "auto"), ("cpu", "auto")]
    with tested_as(found(SLOWER)):
        notes = [noted(placement_for(device, "auto", resident)) for device, resident in asked]
    card = placement_for("xpu:0", "auto")
    with tested_as(faster()):
        natives = {"open": noted(card), "asked for fp16": noted(placement_for("xpu:0", "fp16"))}
        os.environ[hooks.DISABLE_VARIABLE] = gates.HOOK
        natives["switched off"] = noted(card)
        del os.environ[hooks.DISABLE_VARIABLE]
        natives["without scales"] = noted(card, "fp8.safetensors")
    return {"notes": notes, "native": {name: note.endswith("is native there") for name, note in natives.items()}}


def noted(placement: Placement, name: str = NAME) -> str:
    return load_diffusion_model(name, "default", placement)[1].notes[0]


def case_counted() -> Any:
    """What is said of a file's weights, and the bytes of the MODEL's, by precision and storage."""
    found, forecasts = {}, []

    def kept(*arguments: Any, **keywords: Any) -> Forecast:
        forecasts.append(forecast(*arguments, **keywords))
        return forecasts[-1]

    outlook.forecast = kept
    for precision, storage in (("auto", "default"), ("fp32", "default"), ("fp32", "fp8_e4m3fn"), ("int8", "default")):
        model, placed = load_diffusion_model("fp8.safetensors", storage, placement_for("xpu:0", precision))
        said = forecasts.pop()
        held = sum(weight.nbytes for weight in model.model.diffusion_model.parameters())
        found[f"{precision}, {storage}"] = (said.resident_bytes - said.work_bytes, held, placed.notes[0])
    outlook.forecast = forecast
    return found


def case_sizes() -> Any:
    """Bytes of a step by family, and what it is said to be of, where 81 frames of 832x480 are asked for, and one."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "in time": hasattr(LatentFormat, "temporal_downscale_ratio"),
            **{
                name: [found and (found[0], str(found[1])) for found in steps]
                for name in SHAPES
                for file in [shaped_as(name, Path(folder))]
                for steps in [[work.step(work.family(file), Size(832, 480, frames)) for frames in (81, 1)]]
            },
        }


SHAPES = {family.name: family for family in MODELS if family.name in ("SD3", "WAN21_T2V", "LTXV", "ACEStep")}


def shaped_as(name: str, folder: Path) -> Path:
    """A file with a family's names and shapes, and no numbers."""
    config = configured(name, SHAPES[name].network)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("meta"))
    shapes = {key: ("F32", tuple(weight.shape)) for key, weight in model.diffusion_model.state_dict().items()}
    return write(folder / f"{name}.safetensors", shapes)


def on_cpu(model: Any) -> dict[str, Any]:
    """What a model gives once it was carried there."""
    return sampled("cpu", place_model(model, placement_for("cpu", "auto", "all"))[0])


def case_gates() -> Any:
    answers = {}
    with tested_as(found(SLOWER)):
        answers["slower"] = sampled("xpu:0")
        answers["slower, on the CPU"] = on_cpu(answers["slower"]["model"])
    with tested_as(faster()):
        answers["faster"] = sampled("xpu:0")
        answers["carried to the CPU"] = on_cpu(answers["faster"]["model"])
        host_attention.REGISTERED_ATTENTION_FUNCTIONS["omnixpu"] = host_attention.attention_pytorch
        answers["beside OmniXPU"] = sampled("xpu:0")
        host_attention.REGISTERED_ATTENTION_FUNCTIONS.pop("omnixpu")
    xpu_sim.current().set_faults([xpu_sim.Fault(operator="aten::_scaled_mm*", kind="wrong_result", times=None)])
    with tested_as(GateTests()):
        answers["wrong"] = sampled("xpu:0")
    xpu_sim.current().set_faults([])
    plain = answers["slower"]["answer"].double()
    return {
        "by format": BY_FORMAT,
        "the host's answer afterwards": bool(model_management.supports_fp8_compute(torch.device("xpu:0"))),
        **{
            name: {
                **{key: answer[key] for key in ("products", "state", "why")},
                "distance": float((answer["answer"].double() - plain).norm() / plain.norm()),
            }
            for name, answer in answers.items()
        },
    }


def case_streamed() -> Any:
    """By format: the device's product before and after it has any, and what an open gate gives, whatever happens."""
    if not BY_FORMAT:
        return {}
    device = placement_for("xpu:0", "auto").device
    lacking = {name: check_product(device, name) for name in FILES}
    multiply_blocks()
    return {
        name: {
            "tested": [[product.right, product.problem] for product in (lacking[name], check_product(device, name))],
            **streamed(name, f"{kind}.safetensors"),
        }
        for name, kind in FILES.items()
    }


def streamed(name: str, file: str) -> dict[str, Any]:
    with tested_as(found(dataclasses.replace(SLOWER, format=name))):
        shut = sampled("xpu:0", name=file)
    with tested_as(faster(name)):
        all_there = sampled("xpu:0", name=file)
        answers = {"streamed": sampled("xpu:0", name=file, resident="10%")}
        for fault in ("out_of_memory", *(["device_lost"] if name == [*FILES][-1] else ())):
            xpu_sim.current().set_faults([xpu_sim.Fault(operator="native_layer_norm", kind=fault, nth=5)])
            answers[fault] = sampled("xpu:0", name=file, resident="10%")
            answers[fault]["fired"] = xpu_sim.current().statistics().faults_fired == (1,)
            xpu_sim.current().clear_faults()
    plain = shut["answer"].double()
    return {
        "products": [shut["products"], all_there["products"]],
        "distance": float((all_there["answer"].double() - plain).norm() / plain.norm()),
        "equal": {
            how: torch.equal(one["answer"], all_there["answer"]) and one["products"] > 0 and one.get("fired", True)
            for how, one in answers.items()
        },
    }
