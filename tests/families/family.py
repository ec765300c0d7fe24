"""What describes a family of diffusion models, and how one is built from the host's own classes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

SEED = 7
STEPS = 4
"""A stream has learnt all by the fourth pass."""


@dataclasses.dataclass(frozen=True)
class Family:
    """One class of `comfy.supported_models`, at a size that a CPU samples in a moment."""

    name: str
    """The class."""
    network: Mapping[str, Any]
    """Arguments of the network's constructor, beside those that the class itself is recognised by."""
    latent: tuple[int, ...] | tuple[tuple[int, ...], ...]
    """Shape, with the batch; several where video and sound, say, are sampled together."""
    text: tuple[int, int] | None = None
    """Length and width of what the text encoder answers."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else the conditioning holds; a tuple stands for a random tensor of that shape."""
    weights: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Shapes of weights that the class takes from the file when it makes the model."""
    newer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the constructor that older hosts do not know."""
    forget: str = ""
    """The network's method that drops what it keeps from one run for the next, if it keeps anything."""
    cfg: float = 3.0
    sampler: str = ""
    """One that is no choice of the sampler node; empty for Euler's."""


def patcher_of(model: Any) -> Any:
    """A patcher that computes with a model on the CPU, in the format that it is made for."""
    from comfy.model_patcher import ModelPatcher

    host = torch.device("cpu")
    return ModelPatcher(model, load_device=host, offload_device=host)


def on_host(model: Any) -> Any:
    """A patcher that computes with a model on the CPU in fp32."""
    patcher = patcher_of(model)
    if torch.float32 not in (model.manual_cast_dtype, model.get_dtype()):
        patcher.set_model_compute_dtype(torch.float32)
    return patcher


def drawn(value: Any, generator: torch.Generator) -> Any:
    """A value of a conditioning; a tuple becomes a random tensor of that shape, a function what it makes of a draw."""
    if isinstance(value, tuple):
        return torch.randn(value, generator=generator)
    if isinstance(value, list):
        return [drawn(entry, generator) for entry in value]
    if isinstance(value, dict):
        return {name: drawn(entry, generator) for name, entry in value.items()}
    return value(lambda *shape: torch.randn(shape, generator=generator)) if callable(value) else value


def empty_latent(family: Family) -> Any:
    """What an empty latent's node makes."""
    if isinstance(family.latent[0], int):
        return torch.zeros(family.latent)  # type: ignore[arg-type]
    from comfy.nested_tensor import NestedTensor

    return NestedTensor([torch.zeros(shape) for shape in family.latent])  # type: ignore[arg-type]


def conditioning(family: Family, seed: int) -> list[Any]:
    """What a text encoder node would hand on."""
    generator = torch.Generator().manual_seed(seed)
    text = None if family.text is None else torch.randn(1, *family.text, generator=generator)
    return [[text, drawn(dict(family.extra), generator)]]


@contextlib.contextmanager
def marked() -> Iterator[None]:
    """In the block, memory that is taken without being written to holds NaN, by which `fill` knows it."""
    torch.use_deterministic_algorithms(True)  # only then is such memory filled
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def fill(module: torch.nn.Module, seed: int = SEED) -> torch.nn.Module:
    """Gives a module random weights: norms about 1, biases near 0, others scaled so that activations keep their size.

    Buffers that the constructor computes stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    uninitialised = [buffer for buffer in module.buffers() if buffer.is_floating_point() and buffer.isnan().any()]
    named = [*module.named_parameters(), *(("buffer", buffer) for buffer in uninitialised)]
    for name, tensor in named:
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim < 2:
            values = values * 0.05 + (1.0 if name.endswith(("weight", "gamma", "scale")) else 0.0)
        else:
            values *= max(1, tensor[0].numel()) ** -0.5
        tensor.data.copy_(values)
    return module


def build(family: Family, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The host's model of a family, on the CPU with random weights."""
    try:
        return _built({**family.network, **family.newer}, family, dtype)
    except TypeError:
        if not family.newer:
            raise
        return _built(family.network, family, dtype)


def _built(network: Mapping[str, Any], family: Family, dtype: torch.dtype) -> torch.nn.Module:
    config = configured(family.name, network)
    config.set_inference_dtype(dtype, None)
    generator = torch.Generator().manual_seed(SEED)
    weights = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in family.weights.items()}
    with marked():
        model: torch.nn.Module = config.get_model(weights, "", device=torch.device("cpu"))
    return fill(model).eval().requires_grad_(False)


def configured(name: str, network: Mapping[str, Any]) -> Any:
    """A class of the host's with arguments for its network."""
    import comfy.supported_models

    kind: Any = getattr(comfy.supported_models, name)
    config = kind({**_recognised(kind), **network})
    config.unet_config.update(network)  # the class has its own for the real size
    return config


def _recognised(kind: Any) -> dict[str, Any]:
    """What a class is recognised by."""
    return {name: value for name, value in kind.unet_config.items() if value is not None}


def sampled(family: Family, model: Any, **conditions: Any) -> torch.Tensor:
    """The latent that a MODEL makes with the sampler node's own function, on the host.

    Args:
        conditions: what other nodes have put into the conditioning.
    """
    import comfy.sample
    import comfy.samplers

    latent = empty_latent(family)
    noise = comfy.sample.prepare_noise(latent, SEED)
    if family.forget:
        getattr(model.model.diffusion_model, family.forget)()
    both = [[[text, {**told, **conditions}] for text, told in conditioning(family, seed)] for seed in (1, 2)]
    if family.sampler:
        one_step = torch.tensor([1.0, 0.0])  # between two there is noise, which stock draws on the card
        custom = (family.cfg, comfy.samplers.ksampler(family.sampler), one_step, *both, latent)
        return torch.Tensor(comfy.sample.sample_custom(model, noise, *custom, disable_pbar=True, seed=SEED).cpu())
    answer: Any = comfy.sample.sample(
        model, noise, STEPS, family.cfg, "euler", "normal", *both, latent, disable_pbar=True, seed=SEED
    )
    if answer.is_nested:
        return torch.cat([part.flatten().cpu() for part in answer.unbind()])
    return torch.Tensor(answer.cpu())
