"""Everything of ours that stands in for something of the host, called as a host of tomorrow may call it; see worker.py.

Nothing here names a stand-in: what a placed object carries is walked, so that the next one is tried as well.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.controlnet
import comfy.model_management as model_management
import comfy.sd
import comfy.utils
import latent_preview
import nodes as host_nodes
import torch
from spandrel import ImageModelDescriptor

from tests.harness.models import MODELS
from xpu_utils.calls import StandIn
from xpu_utils.host import cpu_engine
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading.straight import straight
from xpu_utils.host.memory import apply_free_memory_hook, apply_unloading_hook
from xpu_utils.host.recovery import emptying
from xpu_utils.host.recovery import lost as health
from xpu_utils.host.running.clip import place_clip
from xpu_utils.host.running.clip_vision import place_clip_vision
from xpu_utils.host.running.controlnet import place_controlnet
from xpu_utils.host.running.preview import apply_preview_hook
from xpu_utils.host.running.sampling import place_model
from xpu_utils.host.running.upscaling import PlacedUpscaler
from xpu_utils.host.running.vae import place_vae

from .cpu_fallback_cases import BF16_PLAN, _conditioning, _plan, _upscaler
from .vae_cases import _vae

TOMORROW = {"tomorrow": "something new"}


class Heard:
    """Stands where the host's own function does, and hears how it is called."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = torch.zeros(1) if answer is None else answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls.append((arguments, keywords))
        return self.answer

    def told(self) -> list[Any]:
        """(number of positional arguments, names of the others) of each call."""
        return [[len(arguments), sorted(keywords)] for arguments, keywords in self.calls]


def _stock(function: Callable[..., Any], heard: Heard) -> Callable[..., Any]:
    """A host's function of tomorrow, with a parameter more, that only hears."""

    @functools.wraps(function)
    def stock(*arguments: Any, **keywords: Any) -> Any:
        return heard(*arguments, **keywords)

    signature = inspect.signature(function)
    others = [entry for entry in signature.parameters.values() if entry.kind is not inspect.Parameter.VAR_KEYWORD]
    new = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in TOMORROW]
    del stock.__wrapped__  # type: ignore[attr-defined]
    stock.__signature__ = signature.replace(parameters=[*others, *new])  # type: ignore[attr-defined]
    return stock


@functools.cache
def _loaded(kind: str) -> Any:
    if kind == "model":
        return comfy.sd.load_diffusion_model(str(MODELS / "diffusion_models" / "sd15-tiny-unet.safetensors"))
    if kind == "clip":
        return comfy.sd.load_clip([str(MODELS / "text_encoders" / "clip-l.safetensors")])
    if kind == "vision":
        return comfy.clip_vision.load(str(MODELS / "clip_vision" / "clip-vision-l.safetensors"))
    return comfy.controlnet.load_controlnet(str(MODELS / "controlnet" / "controlnet-sd15-tiny.safetensors"))


# -- forwards and other attributes of a placed model's modules


def _patchers() -> dict[str, Any]:
    """What each placement puts on a patcher, on the CPU by a plan and on a device."""
    placed: dict[str, Any] = {}
    with _plan(BF16_PLAN):
        for device in ("cpu", "xpu:0"):
            placement = placement_for(device, "bf16")
            placed[f"model on {device}"] = place_model(_loaded("model"), placement)[0]
            placed[f"clip on {device}"] = place_clip(_loaded("clip"), placement)[0].patcher
            placed[f"vae on {device}"] = place_vae(_vae("kl"), placement)[0].patcher
            control = place_controlnet(_loaded("control"), placement)[0]
            placed[f"control on {device}"] = control.control_model_wrapped
    return placed


def case_object_patches() -> Any:
    """By placement: how many stand-ins there are, and the names of those that lose something."""
    found = {}
    for name, patcher in _patchers().items():
        ours = {
            key: patch
            for key, patch in patcher.object_patches.items()
            if callable(patch) and not isinstance(patch, torch.nn.Module)
        }
        found[name] = {"count": len(ours), "losing": [key for key, patch in ours.items() if not _hands_on(patch)]}
    return found


def _hands_on(patch: Any) -> bool:
    heard = Heard()
    if isinstance(patch, StandIn):
        patch.stock = heard
    else:
        own = [value if isinstance(value, (torch.nn.Module, torch.dtype)) else heard for value in patch.args]
        patch = functools.partial(patch.func, *own)
    patch(torch.zeros(2, 4, 8, 8), "second", "third", **TOMORROW)
    ((arguments, keywords),) = heard.calls
    return arguments[1:] == ("second", "third") and keywords == TOMORROW


# -- wrappers of a sampling run


def case_wrappers() -> Any:
    """What goes into our wrappers and what comes out, in a run in which a pack before ours gives more, by keyword."""
    placed, _ = place_model(_loaded("model"), placement_for("xpu:0", "fp32"))
    given: dict[str, Any] = {}
    arrived: dict[str, Any] = {}
    for kind, wrappers in placed.wrappers.items():
        if wrappers:
            before, after = functools.partial(_before, given, kind), functools.partial(_after, arrived, kind)
            placed.wrappers[kind] = {"before ours": [before], **wrappers, "behind ours": [after]}
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    sampler = host_nodes.NODE_CLASS_MAPPINGS["KSampler"]()
    sampler.sample(placed, 1, 1, 7.0, "euler", "normal", _conditioning(), _conditioning(), latent, 1.0)
    return {"given": given, "arrived": arrived}


def _before(given: dict[str, Any], kind: str, executor: Any, *arguments: Any, **keywords: Any) -> Any:
    last = list(inspect.signature(executor.original).parameters)[len(arguments) - 1]
    keywords = {**keywords, last: arguments[-1], **TOMORROW}
    given[kind] = [len(arguments) - 1, sorted(keywords)]
    return executor(*arguments[:-1], **keywords)


def _after(arrived: dict[str, Any], kind: str, executor: Any, *arguments: Any, **keywords: Any) -> Any:
    arrived[kind] = [len(arguments), sorted(keywords)]
    return executor(*arguments, **{name: value for name, value in keywords.items() if name not in TOMORROW})


# -- methods of classes that are the host's, extended


def _objects() -> list[tuple[Any, type]]:
    """Objects of ours, and the host's class whose methods they have in another form."""
    placement = placement_for("xpu:0", "fp32")
    vae, _ = place_vae(_vae("kl"), placement)
    clip, _ = place_clip(_loaded("clip"), placement)
    vision, _ = place_clip_vision(_loaded("vision"), placement)
    model, _ = place_model(_loaded("model"), placement)
    upscaler = PlacedUpscaler(_upscaler(), placement)
    return [
        (vae, comfy.sd.VAE),
        (clip, comfy.sd.CLIP),
        (vision, comfy.clip_vision.ClipVisionModel),
        (model, type(_loaded("model"))),
        (upscaler, ImageModelDescriptor),
    ]


def case_methods() -> Any:
    """Class and method -> how it was called and how the host's method was; None where that was not called."""
    found = {}
    for thing, host in _objects():
        for name in sorted(_extended(thing, host)):
            found[f"{host.__name__}.{name}"] = _asked(thing, host, name)
    return found


def _extended(thing: Any, host: type) -> set[str]:
    """The names of the host's methods that our classes define anew."""
    ours = [cls for cls in type(thing).__mro__ if cls.__module__.startswith("xpu_utils.")]
    names = {name for cls in ours for name, value in vars(cls).items() if inspect.isfunction(value)}
    return {name for name in names if inspect.isfunction(getattr(host, name, None)) and name not in NOT_HANDED_ON}


NOT_HANDED_ON = ("__init__", "__getattr__", "to")
"""What makes an object, and where its weights are: a placed upscaler stays where it was placed."""

FIRST: Mapping[str, Any] = {
    "encode_from_tokens": {"l": [[(0, 1.0)]]},
    "encode_from_tokens_scheduled": {"l": [[(0, 1.0)]]},
    "load": torch.device("xpu:0"),
    "partially_unload": torch.device("cpu"),
    "patch_weight_to_device": "diffusion_model.out.0.weight",
    "encode_tiled_3d": torch.zeros(1, 3, 9, 32, 32),
    "decode_tiled_3d": torch.zeros(1, 4, 3, 8, 8),
}
"""What methods are given first where it is no picture or latent."""

PLENTY: Mapping[str, Any] = {"load": {"lowvram_model_memory": 1 << 40}}
"""Where there is too little memory, a stream loads the weights and not the host."""


def _asked(thing: Any, host: type, name: str) -> Any:
    stock = getattr(host, name)
    answers = {"clone": thing, "encode_image": types.SimpleNamespace(last_hidden_state=torch.zeros(1))}
    heard = Heard(answers.get(name))
    _, *parameters = inspect.signature(stock).parameters.values()
    keywords = {entry.name: entry.default for entry in parameters if entry.default is not inspect.Parameter.empty}
    first = FIRST.get(name, torch.zeros(1, 4, 8, 8))
    arguments = [first for entry in parameters[:1] if entry.name not in keywords]
    if not arguments and name in FIRST:  # all have defaults
        arguments, keywords = [first], dict(list(keywords.items())[1:])
    keywords |= {**PLENTY.get(name, {}), **TOMORROW}
    setattr(host, name, _stock(stock, heard))
    try:
        getattr(thing, name)(*arguments, **keywords)
    finally:
        setattr(host, name, stock)
    told = heard.told()
    return {"given": [1 + len(arguments), sorted(keywords)], "arrived": told[0] if told else None}


# -- functions of the host's modules


@contextlib.contextmanager
def _replaced(module: Any, name: str, heard: Heard) -> Iterator[None]:
    """A hearing function of that name in the block; its source is this file's, and its module the host's."""
    before = getattr(module, name)
    setattr(module, name, _stock(before, heard))
    try:
        yield
    finally:
        setattr(module, name, before)


def case_functions() -> Any:
    """Functions that we put into the host's modules -> how they were called and how the host's were."""
    path = Path(MODELS / "vae" / "vae-sd15.safetensors")
    previewer = types.SimpleNamespace(decode_latent_to_preview_image=(preview := Heard()))
    found = {}
    for module, name, put, arguments, answer in (
        (model_management, "get_free_memory", apply_free_memory_hook, (torch.device("cpu"),), 1),
        (model_management, "free_memory", apply_unloading_hook, (1.0,), []),
        (latent_preview, "get_previewer", apply_preview_hook, (torch.device("xpu:0"), "format"), previewer),
        (model_management, "soft_empty_cache", emptying.apply_cache_hook, (), None),
        (model_management, "soft_empty_cache", cpu_engine._give_back_with_the_cache, (), None),
        (model_management, "get_torch_device", health._default_to_a_living_device, (), torch.device("cpu")),
        (comfy.utils, "load_torch_file", lambda: straight([path]), (str(path),), {}),
    ):
        heard = Heard(answer)
        with _replaced(module, name, heard), put() or contextlib.nullcontext():
            getattr(module, name)(*arguments, **TOMORROW)
        found[f"{name} by {put.__name__}"] = {"given": [len(arguments), sorted(TOMORROW)], "arrived": heard.told()[-1]}
    previewer.decode_latent_to_preview_image("JPEG", torch.zeros(1), "third", **TOMORROW)
    found["decode_latent_to_preview_image"] = {"given": [3, sorted(TOMORROW)], "arrived": preview.told()[-1]}
    return found
