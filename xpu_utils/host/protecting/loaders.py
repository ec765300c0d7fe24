"""At the source: core's own loader functions read files through our reader, and models remember their file."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.controlnet
import comfy.model_management as model_management
import comfy.sd
import torch

from ...choice import AUTO
from ...decision import Kind
from ...placement import Placement
from ...recovery.ladder import Failure
from ...recovery.watch import watched
from .. import hooks
from ..inventory import as_default
from ..loading.load import is_loading, leave_for_host, read_to_its_device, vae_dtype
from ..loading.straight import straight
from ..placing.deciding import file_format
from ..placing.placed import follow
from ..recovery.weights import remember
from ..target import HOST
from .touches import Offer, Touch, Work, written_in
from .twins import Twins, default_device

HOOK = "protected loading"
_DOES = "core's loaders read straight, models remember their files"

CHECKPOINT = "load_checkpoint_guess_config"
_PARTS = ("output_model", "output_clip", "output_vae", "output_clipvision")
"""Its parameters that say which of its answers are wanted, in the answers' order."""


class Loaders:
    """The touch on core's loader functions."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    def touches(self) -> tuple[Touch, ...]:
        """One for all of them: each is given one or several files first."""
        functions = [(comfy.sd, name) for name in (CHECKPOINT, "load_diffusion_model", "load_clip")]
        functions += [(comfy.controlnet, "load_controlnet"), (comfy.clip_vision, "load")]
        offers: list[tuple[Any, str, Offer]] = [
            *((owner, name, functools.partial(self._loading, name)) for owner, name in functions),
            (comfy.sd.VAE, "__init__", self._vae),
        ]
        return (Touch(HOOK, _DOES, offers),)

    def _loading(self, name: str, stock: Callable[..., Any], *arguments: Any, **keywords: Any) -> Work | None:
        signature = inspect.signature(stock)
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            reason = f"{written_in(stock)} has put a loader of its own there, which does not say what it takes"
            hooks.record(f"{HOOK}, {name}", hooks.State.STOOD_DOWN, reason)
            return None
        given = signature.bind(*arguments, **keywords)
        files = next(iter(given.arguments.values()), None)
        paths = [Path(file) for file in (files if isinstance(files, (list, tuple)) else [files]) if file]
        if is_loading() or not paths:
            return None
        return lambda: self._load(stock, given, paths)

    def _vae(self, stock: Callable[..., Any], vae: Any, *arguments: Any, **keywords: Any) -> Work | None:
        """Each VAE gets its weights in the format that is asked for: converted later, they would have been rounded."""
        dtype = None if is_loading() else file_format(self._twins.placement(default_device()), Kind.VAE)
        if dtype is None:
            return None

        def make() -> None:
            with vae_dtype(dtype):
                stock(vae, *arguments, **keywords)

        return make

    def _load(self, stock: Callable[..., Any], given: inspect.BoundArguments, paths: Sequence[Path]) -> Any:
        placement = self._twins.placement(default_device())
        self._choose(given, stock, placement)
        device = placement.device.torch_device
        read = functools.partial(self._read, stock, given, paths, device)
        moved = self._twins.protection.device != AUTO
        default = as_default(device) if moved else contextlib.nullcontext()
        with default:
            answer = _met(read, placement)
        names = ", ".join(path.name for path in paths)
        for patcher, way in _patchers(answer):
            follow(patcher)
            remember(patcher, names, _again(stock, given, paths, patcher, way))
        return answer

    def _choose(self, given: inspect.BoundArguments, stock: Callable[..., Any], placement: Placement) -> None:
        """Has weights be read in the format that is asked for, unless the node's own input says which."""
        for name in ("model_options", "te_model_options"):
            text = name.startswith("te_") or stock.__name__ == "load_clip"
            dtype = file_format(placement, Kind.CLIP if text else Kind.MODEL)
            if dtype is not None and name in inspect.signature(stock).parameters:
                given.arguments[name] = {"dtype": dtype, **given.arguments.get(name, {})}

    def _read(
        self,
        stock: Callable[..., Any],
        given: inspect.BoundArguments,
        paths: Sequence[Path],
        device: torch.device,
        *,
        on_host: bool,
    ) -> Any:
        with straight(paths) as reading:
            answer = stock(*given.args, **given.kwargs)
            model = _model(answer)
            fits = model is not None and not on_host
            fits = fits and read_to_its_device(model, device, self._twins.protection.resident, reading)
        if fits:
            model_management.load_models_gpu([model], force_full_load=True)
        return answer


def _met(read: Callable[..., Any], placement: Placement) -> Any:
    """Reads; to the host, where the device fails that ComfyUI builds a model on or that its weights are read to."""
    try:
        return watched(functools.partial(read, on_host=False), placement.device.torch_device, "load")
    except (RuntimeError, MemoryError) as error:
        failure = Failure.of(error)
    leave_for_host(failure, placement.device)
    with _built_on_host():
        return read(on_host=True)


@contextlib.contextmanager
def _built_on_host() -> Iterator[None]:
    """Has ComfyUI build models in host memory in the block, in the formats that it chose for their device."""
    with hooks.put_meanwhile(HOOK, model_management, _DOES, DISABLE_SMART_MEMORY=True):
        yield


def _model(answer: Any) -> Any:
    """The MODEL among what a loader answers, if there is one."""
    first = answer[0] if isinstance(answer, tuple) else answer
    return first if hasattr(getattr(first, "model", None), "diffusion_model") else None


def _patchers(answer: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Each patcher in a loader's answer, and the way to it there."""
    for index, part in enumerate(answer if isinstance(answer, tuple) else (answer,)):
        if hasattr(part, "get_models"):  # a ControlNet
            for number, patcher in enumerate(part.get_models()):
                yield patcher, (index, number)
        elif part is not None:
            yield getattr(part, "patcher", part), (index,)


def _again(
    stock: Callable[..., Any], given: inspect.BoundArguments, paths: Sequence[Path], patcher: Any, way: tuple[Any, ...]
) -> Callable[[], torch.nn.Module]:
    """What reads a patcher's module again, onto the host: of a checkpoint only the part that it is."""
    arguments = dict(given.arguments)
    if stock.__name__ == CHECKPOINT:
        arguments.update({name: name == _PARTS[way[0]] for name in _PARTS})
    if _model(patcher) is not None and "dtype" not in arguments.get("model_options", {}):
        arguments["model_options"] = {**arguments.get("model_options", {}), "dtype": patcher.model_dtype()}

    def load() -> torch.nn.Module:
        with as_default(HOST), straight(paths):
            found = [found for found, there in _patchers(stock(**arguments)) if there == way]
        module: torch.nn.Module = found[0].model
        return module

    return load
