"""Other packs and packages that work on what we work on, and who of us does what.

They are found by what they leave in the host or in PyTorch, never by a version or a folder's name. What follows for
each of our touches is said where the touch is; the questions that they ask are answered here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.model_management as model_management
import torch
from comfy.model_patcher import ModelPatcher

from ..machine.devices import Device
from ..weights.conversion import HALVES
from . import hooks

try:
    from comfy_aimdo import control as aimdo
except ImportError:  # older hosts have no DynamicVRAM
    aimdo = None
try:
    import comfy.memory_management as memory_management
except ImportError:
    memory_management = None
try:
    import comfy_kitchen as kitchen
except ImportError:
    kitchen = None

DYNAMIC_HOOK = hooks.named("DynamicVRAM on the CPU")

_KERNEL_NAMES = ("omnixpu", "esimd")
"""What OmniXPU registers its attention as, newest first."""

_KERNEL_HEAD_DIMS = (64, 128)


def attention_kernel() -> Callable[..., Any] | None:
    """OmniXPU's attention as an override gets it, without the host's wrapper; None where it is not there."""
    registered = getattr(host_attention, "REGISTERED_ATTENTION_FUNCTIONS", {})
    function = next((registered[name] for name in _KERNEL_NAMES if name in registered), None)
    return getattr(function, "__wrapped__", function)


def attends_without_scores(
    function: Callable[..., Any], shape: Sequence[int], dtype: torch.dtype, given: Mapping[str, Any]
) -> bool:
    """Whether an attention function is another pack's whose kernel makes no tensor of scores for this call.

    Args:
        shape: of the queries: (batch, heads, queries, dim).
        given: the call's keywords. Whatever their kernel does not take goes to the host's function.
    """
    taken = shape[0] == 1 and shape[-1] in _KERNEL_HEAD_DIMS and dtype in HALVES
    plain = given.get("mask") is None and not given.get("enable_gqa") and "scale" not in given
    return taken and plain and function is attention_kernel()


def allocator_is_aimdos() -> bool:
    """Whether comfy-aimdo for XPUs put its allocator in PyTorch's place: it has no nested figures and no limit."""
    mode = getattr(aimdo, "get_xpu_allocator_mode", None)
    return mode is not None and mode() == "global"


def aimdo_manages_memory() -> bool:
    """Whether comfy-aimdo manages devices in this process."""
    return bool(getattr(aimdo, "devctxs", None))


def dynamic_vram() -> bool:
    """Whether ComfyUI builds models whose weights it streams by itself."""
    return bool(getattr(memory_management, "aimdo_enabled", False))


@contextlib.contextmanager
def without_dynamic_vram() -> Iterator[None]:
    """For the block, ComfyUI's loaders build plain models as they do where there is no DynamicVRAM.

    Under it they leave weights mapped read-only, and in the file's format, also for a device that it does not serve.
    """
    if not dynamic_vram():
        yield
        return
    does = "models are loaded to the CPU without DynamicVRAM"
    with hooks.put_meanwhile(DYNAMIC_HOOK, memory_management, does, aimdo_enabled=False):
        yield


def aimdo_bytes(device: Device) -> int:
    """What comfy-aimdo holds on a device for this process: weights, buffers, and PyTorch's part where it allocates it.

    Its weights come and go without PyTorch's knowledge.
    """
    try:
        context = aimdo.get_devctx(device.index)
    except RuntimeError:  # it was not told to manage this device
        return 0
    return int(aimdo.lib.get_total_vram_usage(context))


def distributed(patcher: Any) -> bool:
    """Whether DisTorch shares a model's weights out among devices: it marks the model or its patcher."""
    owners = (patcher, getattr(patcher, "model", None))
    return any(name.startswith("_distorch") for owner in owners if owner is not None for name in vars(owner))


def pack_of(function: Any) -> str:
    """The pack that a function is from, by its module."""
    module = str(getattr(function, "__module__", "another pack"))
    return pack_name(module) or module


def pack_name(module: str) -> str:
    """The pack that a module is of, empty for others: ComfyUI names a pack's modules by the folder's whole path."""
    *path, name = re.split(r"[\\/]", module)
    return name.partition(".")[0] if path else ""


def computes_quantised() -> bool:
    """Whether another pack computes quantised layers on XPUs: OmniXPU, or a back end of comfy-kitchen for them."""
    return attention_kernel() is not None or _kitchen_for_xpus()


def _kitchen_for_xpus() -> bool:
    return "xpu" in getattr(kitchen, "list_backends", dict)()


def default_device_is_anothers() -> bool:
    """Whether another pack answers for ComfyUI's default device, as MultiGPU does."""
    return getattr(model_management.get_torch_device, "__module__", "") != model_management.__name__


def present() -> Iterator[tuple[str, str]]:
    """(who, what follows for our touches) for each neighbour that is there now."""
    if attention_kernel() is not None:
        yield "OmniXPU", "computes attention, this pack leaves it what its kernel takes"
    if allocator_is_aimdos():
        yield (
            "comfy-aimdo",
            "manages the device's memory; this pack counts that as ComfyUI's own, and sets no limit",
        )
    if dynamic_vram():
        yield "DynamicVRAM", "decides which weights stay on the device; the input resident has no effect"
    if _kitchen_for_xpus():
        yield "comfy-kitchen for XPUs", "computes quantised layers, this pack leaves it all of them"
    if default_device_is_anothers():
        name = pack_of(model_management.get_torch_device)
        yield name, "decides ComfyUI's device; loaders of this pack read what it built elsewhere to main memory"
    if hasattr(ModelPatcher, "_distorch_patched"):
        yield "DisTorch", "shares models out among devices; this pack leaves their weights where it puts them"
