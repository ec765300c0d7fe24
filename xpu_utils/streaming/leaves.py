"""Leaf modules whose weights can be on the host or on a device: where their bytes lie, and how they change places."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from ..weights.pinned import Packer, aligned

LEAST_LEAF_BYTES = 64 << 10
"""Smaller leaves (norms, mostly) are not worth a copy of their own and stay on the device."""

_LEAST_PART_BYTES = 4 << 10
"""Smaller components of a quantised weight (its scale) are moved to the device once."""


Copy = Callable[[torch.Tensor, torch.Tensor], None]


@dataclasses.dataclass(frozen=True)
class _Part:
    """One plain tensor of a leaf: a parameter, or a component of a quantised one."""

    host: torch.Tensor
    offset: int
    """Its first byte, relative to the leaf's."""

    @property
    def bytes(self) -> torch.Tensor:
        """The tensor's memory as uint8, 1-D."""
        return self.host.as_strided((self.host.numel(),), (1,)).view(torch.uint8)

    def view(self, storage: torch.Tensor, base: int) -> torch.Tensor:
        start = base + self.offset
        flat = storage[start : start + self.host.numel() * self.host.element_size()].view(self.host.dtype)
        return flat.as_strided(self.host.shape, self.host.stride())


@dataclasses.dataclass(eq=False)
class Leaf:
    """A module without children that holds weights; it can compute with views of device memory in their place."""

    name: str
    module: nn.Module
    size_bytes: int
    _host: Mapping[str, nn.Parameter]
    _parts: Mapping[str, dict[str, _Part]]

    def lock(self, packer: Packer, copy: Copy) -> None:
        """Moves its weights to page-locked memory; those that lie there stay. No queued copy may still read them.

        Args:
            copy: has the second tensor copied to the first; the leaf computes rightly once that is done.

        Raises:
            PinnedMemoryError: there is no more; what was not moved stays where it is.
        """
        for key, parts in self._parts.items():
            for component, part in parts.items():
                if not packer.pool.holds(part.host):
                    moved = _moved(self._host[key], component, part.host, packer, copy)
                    parts[component] = dataclasses.replace(part, host=moved)

    def copies(self) -> Iterator[tuple[torch.Tensor, int]]:
        """(host bytes as uint8 1-D, offset relative to the leaf's first byte on the device) of each weight."""
        for parts in self._parts.values():
            for part in parts.values():
                yield part.bytes, part.offset

    def views(self, storage: torch.Tensor, base: int) -> dict[str, torch.Tensor]:
        """The leaf's parameters over device memory, which need not hold the weights yet.

        Args:
            storage: uint8, 1-D.
            base: the leaf's first byte in it, aligned.
        """
        return {
            name: _rebuilt(self._host[name], {key: part.view(storage, base) for key, part in parts.items()})
            for name, parts in self._parts.items()
        }

    def swap(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Makes the module compute with these parameters."""
        self.module._parameters.update(parameters)  # type: ignore[arg-type]

    def restore(self) -> None:
        """Gives the module its host parameters back."""
        self.module._parameters.update(self._host)


def opaque_kind(root: nn.Module) -> str:
    """The name of a kind of weights that does not tell of which tensors it is made; empty where all do.

    Only what `__tensor_flatten__` tells can be copied without losing what makes it more than bytes.
    """
    plain = (torch.Tensor, nn.Parameter)
    kinds = {type(parameter) for parameter in root.parameters()}
    return next((kind.__name__ for kind in kinds if kind not in plain and not hasattr(kind, "__tensor_flatten__")), "")


def collect_leaves(root: nn.Module, *, streamable: Callable[[nn.Module], bool]) -> list[Leaf]:
    """Finds the leaves worth streaming.

    A weight that two modules share, or whose elements are spread in memory, makes its leaf one that is not streamed.

    Args:
        streamable: whether a module may compute with other parameters than its own.
    """
    owners: dict[int, int] = {}
    for module in root.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    leaves = []
    for name, module in root.named_modules():
        host = {key: value for key, value in module._parameters.items() if value is not None}
        if not host or not streamable(module) or any(True for child in module.children() for _ in child.parameters()):
            continue
        plain = {key: _components(value) for key, value in host.items()}
        tensors = [tensor for components in plain.values() for tensor in components.values()]
        shared = any(owners[id(value)] > 1 for value in host.values())
        size_bytes = sum(aligned(tensor.numel() * tensor.element_size()) for tensor in tensors)
        if size_bytes >= LEAST_LEAF_BYTES and not shared and all(_is_dense(tensor) for tensor in tensors):
            leaves.append(Leaf(name, module, size_bytes, host, _parts(plain)))
    return leaves


def _parts(plain: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, _Part]]:
    parts: dict[str, dict[str, _Part]] = {}
    offset = 0
    for key, components in plain.items():
        parts[key] = {}
        for component, tensor in components.items():
            parts[key][component] = _Part(tensor, offset)
            offset += aligned(tensor.numel() * tensor.element_size())
    return parts


def _moved(parameter: nn.Parameter, component: str, tensor: torch.Tensor, packer: Packer, copy: Copy) -> torch.Tensor:
    """The tensor in page-locked memory; the parameter now lives there too, so that its old memory is freed."""
    room = packer.place(tensor.numel() * tensor.element_size()).view(tensor.dtype)
    moved = room.as_strided(tensor.shape, tensor.stride())
    copy(moved, tensor)
    if component:
        setattr(parameter, component, moved)
    else:
        parameter.data = moved
    return moved


def _components(parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """The plain tensors behind a parameter: its data, or the larger inner ones of a wrapper (quantised) tensor."""
    if not hasattr(parameter, "__tensor_flatten__"):
        return {"": parameter.data}
    names, _ = parameter.__tensor_flatten__()
    inner = {name: getattr(parameter, name) for name in names}
    return {
        name: tensor for name, tensor in inner.items() if tensor.numel() * tensor.element_size() >= _LEAST_PART_BYTES
    }


def _rebuilt(parameter: nn.Parameter, components: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The parameter over other memory; the small components of a quantised one are copied there now."""
    if "" in components:
        return nn.Parameter(components[""], requires_grad=False)
    names, context = parameter.__tensor_flatten__()  # type: ignore[attr-defined]
    device = next(iter(components.values())).device
    inner = {name: components[name] if name in components else getattr(parameter, name).to(device) for name in names}
    # Not wrapped in a Parameter: that may clone the components, which are not filled yet.
    return type(parameter).__tensor_unflatten__(inner, context, parameter.shape, parameter.stride())  # type: ignore


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill the tensor's memory without gaps or overlaps, in whatever order."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
