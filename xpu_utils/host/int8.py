"""ComfyUI's MODELs held in int8."""

from __future__ import annotations

import functools
from typing import Any

import comfy.controlnet
import comfy.model_base
import torch

from ..calls import Call
from ..machine.devices import Device
from ..placement import Placement
from ..precision import INT8
from ..selftest.gates import product
from ..selftest.products import Way, held_in_int8
from ..weights.int8_layers import LARGEST_LOSS, Holding, Int8Layer, Int8Use, eligible, hold, holds_int8, state_in_floats
from .cpu_engine import LINEARS, stop_if_asked
from .hooks import named, put_for_good, switched_off
from .inventory import host_inventory

CONTROL_HOOK = named("Control-LoRA on int8 models")
SAVING_HOOK = named("saving int8 models")


def in_int8(model: Any) -> bool:
    """Whether a MODEL's weights are held in int8 now."""
    network = getattr(model.model, "diffusion_model", None)
    return network is not None and holds_int8(network)


def obstacle(model: Any) -> str:
    """What keeps a MODEL's weights from being held in int8; empty where nothing does."""
    network = getattr(model.model, "diffusion_model", None)
    if network is None or next(eligible(network, LINEARS), None) is None:
        return "none of its layers can be held in int8: they are quantised already, or of another kind"
    return ""


def leave_hooks_uncached(model: Any) -> None:
    """Has a MODEL held in int8 patch its weights anew for each of its hooks: the patched ones are kept as floats."""
    model.set_hook_mode(type(model.hook_mode).MinVram)


def apply_control_hook() -> None:
    """Has Control-LoRAs, which take a model's own weights, be given floats."""
    if switched_off(CONTROL_HOOK):
        return
    stock = comfy.controlnet.ControlLora.pre_run

    @functools.wraps(stock)
    def pre_run(*arguments: Any, **keywords: Any) -> Any:
        call = Call(("self", "model"), arguments, keywords)
        sampled = call.get("model")
        with state_in_floats(sampled.diffusion_model, sampled.get_dtype()):
            return call.on(stock)

    does = "Control-LoRAs are given the weights of models in int8 as floats"
    put_for_good(CONTROL_HOOK, comfy.controlnet.ControlLora, "pre_run", pre_run, does)


def apply_saving_hook() -> None:
    """Has models held in int8 not be saved: nothing would read the file."""
    if switched_off(SAVING_HOOK):
        return
    stock = comfy.model_base.BaseModel.state_dict_for_saving

    @functools.wraps(stock)
    def state_dict_for_saving(*arguments: Any, **keywords: Any) -> Any:
        call = Call(("self",), arguments, keywords)
        if holds_int8(call.get("self").diffusion_model):
            raise ValueError(
                "A model that was loaded in int8 cannot be saved, nothing would read the file: load it with "
                "precision=bf16 to save it."
            )
        return call.on(stock)

    does = "models that were loaded in int8 are not saved to files that nothing reads"
    put_for_good(SAVING_HOOK, comfy.model_base.BaseModel, "state_dict_for_saving", state_dict_for_saving, does)


def residence(placement: Placement) -> str | None:
    """How much of a MODEL stays on the device that it is read to; None reads it where ComfyUI does.

    What is to be held in int8 goes to its device when it is.
    """
    return None if placement.precision == INT8 else placement.resident


def hold_in_int8(network: torch.nn.Module, device: torch.device, *, for_good: bool = False) -> Holding:
    """Holds a network's linear layers in int8, as a device reads them; see `xpu_utils.weights.int8_layers.hold`."""
    use = Int8Use(_products, stop_if_asked, columns=device.type == "cpu")
    return hold(network, LINEARS, use, for_good=for_good)


def told(model: Any, device: Device) -> str:
    """How many layers of a MODEL are held in int8, or will be when it works, and how they compute on a device."""
    network = model.model.diffusion_model
    held = [layer for layer in network.modules() if isinstance(layer, Int8Layer)]
    others = [layer for _, layer in eligible(network, LINEARS)]
    left = f", {len(others)} more would lose over {LARGEST_LOSS:.0%} and stay as they are" if held and others else ""
    layers = held or others
    computing = sum(_products(device.torch_device, layer.in_features, layer.out_features) for layer in layers)
    rest = "" if computing == len(layers) else f", the others in floats, which is faster on {device.id}"
    return f"{computing} of {len(layers)} layers held in int8 compute in it{rest}{left}"


@functools.lru_cache(maxsize=256)
def _products(where: torch.device, inputs: int, outputs: int) -> bool:
    device = host_inventory().find(str(where))
    return device is not None and product(device, held_in_int8(inputs, outputs)).way is Way.NATIVE
