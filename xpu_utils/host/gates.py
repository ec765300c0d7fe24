"""Has ComfyUI multiply in a quantised file's own format on devices where that was tested right and faster.

Newer hosts ask whether a device can (`supports_fp8_compute` and the like, for int8 since 0.38) when they build a model,
and answer no for all but NVIDIA's; what is then computed is what the weights stand for.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.model_management as model_management
import comfy.ops

from ..machine.devices import Device
from ..selftest.gates import is_open, product
from ..selftest.products import FORMATS, Product
from . import hooks
from .neighbours import computes_quantised

HOOK = hooks.named("quantised products")

QUESTIONS = {
    "supports_fp8_compute": "fp8_e4m3",
    "supports_nvfp4_compute": "nvfp4",
    "supports_mxfp8_compute": "mxfp8",
    "supports_int8_compute": "int8",
}
"""The host's questions, and the formats of `products.FORMATS` that they are about."""
LAYOUTS: Mapping[str, str] = {
    "TensorCoreFP8Layout": "fp8_e4m3",
    "TensorCoreFP8E4M3Layout": "fp8_e4m3",
    "TensorCoreFP8E5M2Layout": "fp8_e5m2",
    "TensorCoreNVFP4Layout": "nvfp4",
    "TensorCoreMXFP8Layout": "mxfp8",
    "TensorWiseINT8Layout": "int8",
}
"""The host's names for how layers hold their weights."""
_OPENED = {
    **{name: question for question, name in QUESTIONS.items() if name != "int8"},
    "fp8_e5m2": "supports_fp8_compute",
}
"""Formats that hosts compute in where they were told to only, by which answer; the others they try anywhere."""
_CAST = ("fp8_e4m3", "fp8_e5m2")
"""Formats that without scales are a way of storing only."""


@contextmanager
def gates_open(device: Device, formats: Collection[str]) -> Iterator[None]:
    """In the block, models are built to multiply in those of the formats that a device's gate is open for.

    Args:
        formats: names as `weights.contents` has them: "scaled fp8_e4m3".
    """
    asked = _asked(device, formats)
    opened = {question: name for question, name in asked.items() if is_open(device, name)}
    if not opened:
        if asked:
            reasons = ", ".join(str(product(device, name)) for name in asked.values())
            hooks.record(HOOK, hooks.State.STOOD_DOWN, f"{device.id}: {reasons}")
        yield
        return
    does = f"{device.id} multiplies in {' and '.join(opened.values())}, tested right and faster"
    with hooks.put_meanwhile(HOOK, model_management, does, **dict.fromkeys(opened, _yes)):
        yield


def ways(device: Device, formats: Collection[str]) -> tuple[Product, ...]:
    """What a device does with those of a MODEL's formats whose gate is ours to open, found by test."""
    return tuple(product(device, name) for name in _asked(device, formats).values())


def _asked(device: Device, formats: Collection[str]) -> dict[str, str]:
    """The questions about these formats that the host answers with no for a device, where a yes may help."""
    stored = {name.removeprefix("scaled ") for name in formats if name not in _CAST} & FORMATS.keys()
    questions = {question: name for question, name in QUESTIONS.items() if name in stored}
    if not questions or device.type == "cpu" or hooks.switched_off(HOOK):
        return {}
    build = getattr(comfy.ops, "mixed_precision_ops", None)
    if build is None or "disabled" not in inspect.signature(build).parameters:
        hooks.record(HOOK, hooks.State.UNAVAILABLE, "this ComfyUI has no quantised products by format")
        return {}
    if computes_quantised():
        hooks.record(HOOK, hooks.State.STOOD_DOWN, "another pack computes quantised layers")
        return {}
    answers = {question: getattr(model_management, question, _yes) for question in questions}
    return {question: questions[question] for question, answer in answers.items() if not answer(device.torch_device)}


def _yes(*_: Any, **__: Any) -> bool:
    return True


def shut_where_wrong(model: Any, device: Device) -> None:
    """Has a MODEL compute with what its weights stand for, where its device multiplies wrongly in their format.

    It may have been built for another device, whose gate was open.
    """
    if any(_is_shut(device, name) for name in _formats(model)) and not hooks.switched_off(HOOK):
        model.force_cast_weights = True


def _formats(model: Any) -> set[str]:
    """The formats that layers of a model multiply in."""
    layouts = {
        str(getattr(module, "layout_type", None))
        for module in model.model.diffusion_model.modules()
        if not getattr(module, "_full_precision_mm", True)
    }
    return {LAYOUTS[layout] for layout in layouts if layout in LAYOUTS}


def _is_shut(device: Device, name: str) -> bool:
    if name in _OPENED:
        return not (_the_host_opens(device, _OPENED[name]) or is_open(device, name))
    if device.type == "cpu":  # which computes as with the stock nodes
        return False
    found = product(device, name)
    return found.relative_error is not None and not found.right


def _the_host_opens(device: Device, name: str) -> bool:
    question = getattr(model_management, name, None)
    return question is not None and bool(question(device.torch_device))
