"""Copies from mapped files into parameters, taken over: each weight is read once, straight to where it is to be.

ComfyUI's loaders map the file, build the model where it is to live (`unet_inital_load_device` and the like) and have
`load_state_dict` copy each mapped tensor into its parameter. Models are built without initial values, so a parameter
costs no host memory until it is written. A torch-function mode, which only the loading thread sees, takes over those
copies and no others: whatever else a loader computes or copies goes on as it is.

ComfyUI's `model_options["custom_operations"]` cannot take its place on 0.3.52 to 0.33.0: they reach no VAE, CLIP vision
or upscale model and no parameter outside of a layer, and a model that is given some loses those that ComfyUI picks for
its quantised weights.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import comfy.utils
import torch
from torch.overrides import TorchFunctionMode

from ...weights.check import tensors_in
from ...weights.conversion import HALVES
from ...weights.fill import fill
from ...weights.header import LoadError, entries
from ...weights.mapped import note_mapped
from ...weights.pinned import PinnedMemoryError
from ...weights.spans import Span
from ..target import HOST

_ALIGNMENT_BYTES = 64
"""Of torch's own host memory. MKL sums in another order where fp32 weights begin elsewhere."""
_LAYOUT_DIMENSIONS = 4
"""Convolutions' weights: a CPU plan changes their layout, after which a mapping would be a second copy."""
_NARROW = (*HALVES, torch.float8_e4m3fn, torch.float8_e5m2)
_FLOATS = (torch.float32, *_NARROW)
# What may be asked about a weight that is not read yet, beside its attributes.
_QUESTIONS = frozenset(
    (
        *(torch.Tensor.is_floating_point, torch.Tensor.is_complex, torch.Tensor.dim, torch.Tensor.size),
        *(torch.Tensor.nelement, torch.Tensor.numel, torch.Tensor.element_size, torch.Tensor.is_contiguous),
        *(torch.Tensor.data_ptr, torch.Tensor.detach),
        torch._has_compatible_shallow_copy_type,
    )
)
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def _unseen(method: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Has no mode look at what a method does for each of a thousand weights: that takes longer than the method."""

    @functools.wraps(method)
    def call(*arguments: Given.args, **keywords: Given.kwargs) -> Answer:
        with torch._C.DisableTorchFunction():
            return method(*arguments, **keywords)

    return call


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A tensor of a file as the host mapped it."""

    tensor: torch.Tensor
    path: Path
    start: int
    """Its first byte in the file."""


@dataclasses.dataclass(frozen=True)
class _Awaited:
    """A parameter that is still to be read."""

    parameter: torch.Tensor
    source: torch.Tensor
    """The same weights as they are mapped."""
    path: Path
    start: int
    streamed: bool = False
    """Whether a stream takes it to its device, which locks what it needs."""

    @property
    def where(self) -> tuple[str, str]:
        """The file and the device, to sort by."""
        return str(self.path), str(self.parameter.device)

    def may_stay_mapped(self) -> bool:
        """Whether a parameter on the host may be the file's own memory."""
        aligned = self.source.dtype != torch.float32 or self.source.data_ptr() % _ALIGNMENT_BYTES == 0
        same = self.source.dtype == self.parameter.dtype
        layout_stays = self.streamed or self.source.dim() < _LAYOUT_DIMENSIONS
        # What somebody has marked as theirs (DynamicVRAM does) may be read-only, and LoRA hooks write to weights.
        return same and aligned and layout_stays and not vars(self.source.untyped_storage())

    def span(self, target: torch.Tensor) -> Span:
        """What fills the target with these weights."""
        return Span(self.start, self.source.dtype, target)


class Progress:
    """ComfyUI's progress bar, by bytes; moved a hundred times at most."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = self._shown_bytes = 0
        self._bar = comfy.utils.ProgressBar(total_bytes)

    def add(self, size_bytes: int) -> None:
        self._done_bytes = min(self._done_bytes + size_bytes, self._total_bytes)
        if self._done_bytes - self._shown_bytes >= self._total_bytes / 100:
            self._shown_bytes = self._done_bytes
            self._bar.update_absolute(self._done_bytes)

    def end(self) -> None:
        self._bar.update_absolute(self._total_bytes)


class Reading(TorchFunctionMode):
    """Takes over copies from mapped files into parameters."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self._mapped: list[_Mapped] = []
        self._addresses: list[int] = []
        self._awaited: dict[int, _Awaited] = {}
        """By the parameter's address, which all that shares its memory has too."""

    @_unseen
    def note(self, path: Path, tensors: Mapping[str, Any]) -> None:
        """Notes which addresses hold which part of a file."""
        try:
            header = entries(path)
        except LoadError as error:  # a format that only the host's reader knows
            logging.info("XPU Nodes: %s is loaded ComfyUI's own way: %s", path.name, error)
            return
        found = []
        for entry in header:
            tensor = tensors.get(entry.name)
            if (
                type(tensor) is torch.Tensor
                and (tensor.device, tensor.dtype, tuple(tensor.shape)) == (HOST, entry.dtype, entry.shape)
                and tensor.is_contiguous()
                and tensor.nbytes
            ):
                found.append(_Mapped(tensor, path, entry.start))
        note_mapped((mapped.tensor for mapped in found), path)
        self._mapped += found
        self._mapped.sort(key=lambda mapped: mapped.tensor.data_ptr())
        self._addresses = [mapped.tensor.data_ptr() for mapped in self._mapped]

    @_unseen
    def send(self, model: torch.nn.Module, device: torch.device) -> None:
        """Has all that is awaited of a model be read to a device instead of where the host built it.

        `Module.to` would do it as well, but asks several questions about each weight: that takes longer than reading.
        """
        for awaited, uses in self._uses(model, lambda home: home != device):
            room = torch.empty_like(awaited.source, dtype=awaited.parameter.dtype, device=device)
            self._put(awaited, uses, room)

    @_unseen
    def stream(self, model: torch.nn.Module) -> None:
        """Has all that is awaited of a model on the host be the file's own memory, where it may."""
        for awaited, _ in self._uses(model, lambda home: home == HOST):
            self._awaited[awaited.parameter.data_ptr()] = dataclasses.replace(awaited, streamed=True)

    def _uses(
        self, model: torch.nn.Module, lies: Callable[[torch.device], bool]
    ) -> list[tuple[_Awaited, list[tuple[torch.nn.Module, str]]]]:
        """What is awaited of a model on some devices, each with the modules that hold it and its name there."""
        awaited = {id(entry.parameter): entry for entry in self._awaited.values() if lies(entry.parameter.device)}
        uses: dict[int, tuple[_Awaited, list[tuple[torch.nn.Module, str]]]] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                entry = awaited.get(id(parameter))
                if entry is not None:
                    uses.setdefault(id(parameter), (entry, []))[1].append((module, name))
        return list(uses.values())

    def _put(self, awaited: _Awaited, uses: Sequence[tuple[torch.nn.Module, str]], room: torch.Tensor) -> None:
        """Has a weight be read to other memory, which the modules that use it now have as their parameter."""
        parameter = torch.nn.Parameter(room, requires_grad=awaited.parameter.requires_grad)
        del self._awaited[awaited.parameter.data_ptr()]
        self._awaited[parameter.data_ptr()] = dataclasses.replace(awaited, parameter=parameter)
        for module, name in uses:
            module._parameters[name] = parameter

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _asks(func):
            return func(*args, **kwargs)
        if func is torch.Tensor.copy_ and len(args) == 2 and not kwargs and self._take(*args):
            return args[0]
        if _writes(func):
            self._forget(next(iter((*args, *kwargs.values())), None))
        if self._awaited:
            if func == _SET_DATA:
                if args[0].data_ptr() != args[1].data_ptr():
                    self._awaited.pop(args[0].data_ptr(), None)
            else:
                converted = self._converted(*args, **kwargs) if func is torch.Tensor.to else None
                if converted is not None:
                    return converted
                for tensor in tensors_in((args, kwargs)):
                    self._settle_one(tensor)
        return func(*args, **kwargs)

    @_unseen
    def settle(self) -> None:
        """Reads all that is awaited, in file order."""
        awaited = sorted(self._awaited.values(), key=lambda entry: (entry.where, entry.start))
        self._awaited = {}
        for _, group in itertools.groupby(awaited, key=lambda entry: entry.where):
            self._fill(list(group))

    def _settle_one(self, tensor: torch.Tensor) -> None:
        """Reads what is to be computed with now: one weight on the host, all of them on a device."""
        touched = self._awaited.get(tensor.data_ptr())
        if touched is None:
            return
        if touched.parameter.device != HOST:
            self.settle()
            return
        awaited, self._awaited = self._awaited, {}
        del awaited[tensor.data_ptr()]
        self._fill([touched])
        self._awaited = awaited

    def _fill(self, awaited: Sequence[_Awaited]) -> None:
        path, device = awaited[0].path, awaited[0].parameter.device
        if device == HOST:
            for entry in filter(_Awaited.may_stay_mapped, awaited):
                entry.parameter.data = entry.source
                self.progress.add(entry.source.nbytes)
            awaited = list(itertools.filterfalse(_Awaited.may_stay_mapped, awaited))
        try:
            pieces = [entry.span(entry.parameter) for entry in awaited]
            fill(path, device, pieces, progress=self.progress.add)
        except PinnedMemoryError as error:
            logging.info("XPU Nodes: %s is copied without locked memory, which is slower. %s", path.name, error)
            for entry in awaited:  # read anew: a mapping of a file that is cut meanwhile would end the process
                room = torch.empty_like(entry.source)
                fill(path, HOST, [entry.span(room)], progress=self.progress.add)
                entry.parameter.detach().copy_(room)

    def _take(self, parameter: Any, source: Any) -> bool:
        """Takes over a copy if it is one from a file into a parameter."""
        if not isinstance(parameter, torch.nn.Parameter) or type(source) is not torch.Tensor:
            return False
        mapped = self._find(source)
        if mapped is None or source.shape != parameter.shape or not parameter.is_contiguous():
            return False
        if source.dtype != parameter.dtype and not (source.dtype in _FLOATS and parameter.dtype in _FLOATS):
            return False
        start = mapped.start + source.data_ptr() - mapped.tensor.data_ptr()
        self._awaited[parameter.data_ptr()] = _Awaited(parameter, source, mapped.path, start)
        return True

    def _find(self, tensor: torch.Tensor) -> _Mapped | None:
        """The file tensor whose memory holds this one, in one piece."""
        if tensor.device != HOST or not tensor.nbytes or not tensor.is_contiguous():
            return None
        index = bisect.bisect_right(self._addresses, tensor.data_ptr()) - 1
        mapped = self._mapped[index] if index >= 0 else None
        if mapped is None or tensor.data_ptr() + tensor.nbytes > mapped.tensor.data_ptr() + mapped.tensor.nbytes:
            return None
        return mapped

    def _forget(self, written: Any) -> None:
        """Leaves a file tensor to the host once it writes to it: the file does not hold the same any more."""
        if not isinstance(written, torch.Tensor) or written.device != HOST:
            return
        index = bisect.bisect_right(self._addresses, written.data_ptr()) - 1
        if index >= 0 and written.data_ptr() < self._addresses[index] + self._mapped[index].tensor.nbytes:
            del self._addresses[index], self._mapped[index]

    def _converted(self, tensor: Any, *arguments: Any, **keywords: Any) -> torch.Tensor | None:
        """What `Module.to` gives for a weight that is not read yet: one that is to be read as that, at once or later.

        ComfyUI builds VAEs in fp32 and converts them when they are loaded; fp32 holds narrower formats exactly.
        """
        awaited = self._awaited.get(tensor.data_ptr()) if isinstance(tensor, torch.nn.Parameter) else None
        as_module_does = len(arguments) == 3 and not keywords  # device, dtype, non_blocking
        if awaited is None or not as_module_does:
            return None
        example = torch.empty((), dtype=tensor.dtype, device=tensor.device).to(*arguments)
        if (example.device, example.dtype) == (tensor.device, tensor.dtype):
            return tensor
        narrowed = tensor.dtype == torch.float32 and awaited.source.dtype in _NARROW
        return self._narrowed(awaited, example) if narrowed and {tensor.device, example.device} == {HOST} else None

    def _narrowed(self, awaited: _Awaited, example: torch.Tensor) -> torch.Tensor:
        """The file's own memory for a weight, or room that is awaited in its place."""
        narrowed = dataclasses.replace(awaited, parameter=torch.empty_like(awaited.source, dtype=example.dtype))
        if narrowed.may_stay_mapped():
            self.progress.add(awaited.source.nbytes)
            return awaited.source
        self._awaited[narrowed.parameter.data_ptr()] = narrowed
        return narrowed.parameter


@functools.cache  # asked at every call of a torch function
def _asks(func: Callable[..., Any]) -> bool:
    """Whether a function asks about a weight, or sets an attribute other than its values."""
    return func in _QUESTIONS or (func.__name__ in ("__get__", "__set__") and func != _SET_DATA)


@functools.cache
def _writes(func: Callable[..., Any]) -> bool:
    """Whether a function writes to its first argument."""
    name = func.__name__
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or name == "__setitem__"
