"""What `bench stream` measures: models of random weights in real shapes, loaded in several ways and sampled by
ComfyUI's own sampler."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.model_management as model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams

from xpu_utils.host.inventory import placement_for
from xpu_utils.host.running.sampling import place_model
from xpu_utils.host.streaming import HOOK, stream_of
from xpu_utils.host.target import HOST

WARM_STEPS = 5
"""Steps left out of the timing: a stream learns during the first ones."""

CFG = 7.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model's shape, and what it is fed."""

    family: str
    config: dict[str, Any]
    weight_dtype: torch.dtype
    compute_dtype: torch.dtype
    latent: tuple[int, ...]
    context: tuple[int, int]
    pooled: int
    cfg: float


_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_heads": -1,
    "num_head_channels": 64,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "use_temporal_attention": False,
}
_SDXL = {
    **_UNET,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 4),
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
_TINY = {
    **_UNET,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 1),
    "transformer_depth": [0, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1],
}
_FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
_FP8 = torch.float8_e4m3fn

SHAPES = {
    "sdxl": Shape("SDXL", _SDXL, torch.float16, torch.float16, (1, 4, 128, 128), (77, 2048), 1280, CFG),
    "flux-fp8": Shape("Flux", _FLUX, _FP8, torch.bfloat16, (1, 16, 128, 128), (256, 4096), 768, 1.0),
    "flux-bf16": Shape("Flux", _FLUX, torch.bfloat16, torch.bfloat16, (1, 16, 128, 128), (256, 4096), 768, 1.0),
    "tiny": Shape("SDXL", _TINY, torch.float32, torch.float32, (1, 4, 8, 8), (77, 2048), 1280, CFG),
}


def build(shape: Shape, device: torch.device, *, seed: int = 0) -> Any:
    """A patcher around a model of random weights, on the host, that loads to the device."""
    config = getattr(comfy.supported_models, shape.family)(_known(shape.config))
    cast = None if shape.weight_dtype == shape.compute_dtype else shape.compute_dtype
    config.set_inference_dtype(shape.weight_dtype, cast)
    model = config.get_model({}, device=HOST)
    _fill(model.diffusion_model, device, seed)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=HOST)


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the parameters that this host's networks do not have yet."""
    if config.get("image_model") != "flux":
        return dict(config)
    parameters = {field.name for field in dataclasses.fields(FluxParams)}
    return {name: value for name, value in config.items() if name == "image_model" or name in parameters}


def _fill(module: torch.nn.Module, device: torch.device, seed: int) -> None:
    """Weights scaled by 1/sqrt(fan-in), norms 1, biases small: activations stay finite."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            values = torch.full(parameter.shape, 1.0 if name.endswith(("weight", "scale")) else 0.01)
        else:
            values = torch.randn(parameter.shape, device=device) * parameter[0].numel() ** -0.5
            values = values.to(parameter.dtype)
        parameter.requires_grad_(False)
        parameter.data.copy_(values)


class _LoadedGuider(comfy.samplers.CFGGuider):
    """Samples with the patcher as it is loaded, instead of having the host load it anew."""

    def outer_sample(
        self,
        noise: Any,
        latent_image: Any,
        sampler: Any,
        sigmas: Any,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **keywords: Any,
    ) -> Any:
        device = self.model_patcher.load_device
        self.inner_model = self.model_patcher.model
        self.model_patcher.pre_run()
        try:
            return self.inner_sample(
                noise.to(device),
                latent_image.to(device),
                device,
                sampler,
                sigmas.to(device),
                denoise_mask,
                callback,
                disable_pbar,
                seed,
                **keywords,
            )
        finally:
            self.model_patcher.cleanup()


def sample(patcher: Any, shape: Shape, steps: int, guide: Any = _LoadedGuider) -> tuple[torch.Tensor, float]:
    """Samples with euler; returns the latent and the mean seconds of the steps after the warm ones."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(shape.latent, generator=generator)
    context = torch.randn((2, 1, *shape.context), generator=generator)
    pooled = torch.randn((2, 1, shape.pooled), generator=generator)
    guider = guide(patcher)
    guider.set_conds(*([[context[index], {"pooled_output": pooled[index]}]] for index in range(2)))
    guider.set_cfg(shape.cfg)
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "normal", steps)
    stamps: list[float] = []

    def stamp(step: int, *_: Any) -> None:
        if step in (WARM_STEPS - 1, steps - 1):
            torch.accelerator.synchronize(patcher.load_device)
            stamps.append(time.perf_counter())

    with torch.inference_mode():
        result = guider.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            callback=stamp,
            disable_pbar=True,
            seed=1,
        )
    return result.cpu(), (stamps[1] - stamps[0]) / (steps - WARM_STEPS)


@contextmanager
def core_configured(*, pinned: bool, streams: int, non_blocking: bool) -> Iterator[None]:
    """ComfyUI's own offloading, configured as it is on some device, for the length of the block.

    Where this ComfyUI cannot pin memory for its device, `pinned` changes nothing.
    """
    wanted = {
        "NUM_STREAMS": streams,
        "MAX_PINNED_MEMORY": getattr(model_management, "MAX_PINNED_MEMORY", -1) if pinned else -1,
        "device_supports_non_blocking": lambda device: non_blocking,
    }
    before = {name: getattr(model_management, name) for name in wanted if hasattr(model_management, name)}
    for name in before:
        setattr(model_management, name, wanted[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model_management, name, value)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of loading the model."""

    name: str
    share: float | None
    """Share of the weights that is resident; None: all."""
    resident: str | None = None
    """Our `resident` input; None for ComfyUI's own way."""
    pinned: bool = True
    streams: int = 2
    non_blocking: bool = True


STOCK_ALL = Variant("core, all resident", None)
OURS_ALL = Variant("ours, all resident", None, "auto")
CORE_INTEL = Variant("core as on Intel, 45 %", 0.45, pinned=False, streams=0, non_blocking=False)
CORE_BEST = (
    Variant("core pinned, 45 %", 0.45, streams=0),
    Variant("core pinned, 2 streams, 45 %", 0.45),
)
OURS = tuple(Variant(f"ours, {share} %", share / 100, f"{share}%") for share in (90, 45, 10))
VARIANTS = (STOCK_ALL, OURS_ALL, CORE_INTEL, *CORE_BEST, *OURS)


@dataclasses.dataclass
class Sampled:
    """What the rounds of one variant gave."""

    variant: Variant
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Mean seconds of a step, one value a round."""
    load_seconds: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    equal: bool = True
    """Whether every latent equalled the first all-resident one bit for bit: ComfyUI's, or ours, whose samplers compute
    on the host."""

    @property
    def seconds_per_step(self) -> float:
        return statistics.median(self.seconds)


def measure(shape: Shape, device: torch.device, *, steps: int, rounds: int) -> tuple[int, list[Sampled]]:
    """The model's bytes and every variant's figures, the variants taking turns.

    ComfyUI's variants have a model of their own: ours moves its weights to page-locked memory for good.
    """
    core, ours = build(shape, device), build(shape, device)

    def patcher(resident: str | None) -> Any:
        return core if resident is None else place_model(ours, placement_for(str(device), "auto", resident))[0]

    patchers = {variant: patcher(variant.resident) for variant in VARIANTS}
    results = [Sampled(variant) for variant in VARIANTS]
    references: dict[bool, torch.Tensor] = {}
    for _ in range(rounds):
        for result in results:
            latent = _measure_once(patchers[result.variant], shape, steps, result)
            reference = references.setdefault(result.variant.resident is not None, latent)
            result.equal &= torch.equal(latent, reference)
    return core.model_size(), results


def _check_streamed(patcher: Any, variant: Variant) -> None:
    """Refuses to time ComfyUI's way as ours.

    Raises:
        RuntimeError: streaming stood down.
    """
    if variant.resident is not None and variant.share is not None and stream_of(patcher) is None:
        raise RuntimeError(f"bench stream: {variant.name} did not stream, see the hook '{HOOK}' for the reason.")


def _measure_once(patcher: Any, shape: Shape, steps: int, result: Sampled) -> torch.Tensor:
    variant, device = result.variant, patcher.load_device
    module = torch.get_device_module(device.type)
    module.empty_cache()
    module.reset_peak_memory_stats(device)
    configured = (
        core_configured(pinned=variant.pinned, streams=variant.streams, non_blocking=variant.non_blocking)
        if variant.resident is None
        else nullcontext()
    )
    with configured:
        started = time.perf_counter()
        share = variant.share if variant.resident is None else None
        patcher.partially_load(device, 1e32 if share is None else share * patcher.model_size())
        torch.accelerator.synchronize(device)
        result.load_seconds.append(time.perf_counter() - started)
        try:
            latent, seconds = sample(patcher, shape, steps)
            _check_streamed(patcher, variant)
            result.peak_bytes = max(result.peak_bytes, module.max_memory_allocated(device))
        finally:
            patcher.detach()
    result.seconds.append(seconds)
    return latent
