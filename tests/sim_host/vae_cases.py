"""What a placed VAE does with little memory and after failures, on a simulated device; see worker.py."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.wan.vae import WanVAE
from comfy.taesd.taesd import TAESD

from tests import xpu_sim
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.running.vae import PlacedVAE, place_vae

MIB = 1 << 20
PLENTY_BYTES = 12 << 30
SIDE = 256
"""Pixels of the test picture; its latent is 32x32."""
VIDEO_SIDE = 192
"""Larger than a tile, and little to compute."""

_KL = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random weights scaled by 1/sqrt(fan-in), norms 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in model.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.numel() == max(tensor.shape, default=1):
            weights[name] = values * 0.01 + (1.0 if name.endswith(("weight", "gamma")) else 0.0)
        else:
            weights[name] = values * (values[0].numel() ** -0.5)
    return weights


@functools.cache
def _vae(kind: str) -> Any:
    """A stock VAE: "kl" is the one of SD with fewer channels, "taesd" has no norms, "wan" is a video VAE."""
    if kind == "kl":
        config = {"params": {"ddconfig": _KL, "embed_dim": 4}}
        return comfy.sd.VAE(sd=_weights(AutoencoderKL(**config["params"])), config=config, dtype=torch.float32)
    if kind == "taesd":
        return comfy.sd.VAE(sd=_weights(TAESD(latent_channels=4)), dtype=torch.float32)
    wan = WanVAE(dim=4, z_dim=16, num_res_blocks=2, temperal_downsample=[False, True, True])
    return comfy.sd.VAE(sd=_weights(wan), dtype=torch.float32)


def _placed(kind: str) -> Any:
    return place_vae(_vae(kind), placement_for("xpu:0", "fp32"))[0]


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _picture(count: int, side: int) -> torch.Tensor:
    """Pictures (N, side, side, 3) in 0..1, with as much texture everywhere."""
    return _noise(count, 3, side, side).movedim(1, -1).sigmoid()


def _with_total(total_bytes: int) -> None:
    torch.xpu.empty_cache()
    xpu_sim.current().change_device(0, total_bytes=total_bytes)


def _compared(vae: Any, call: Any, expected: torch.Tensor) -> dict[str, Any]:
    """Calls, and tells how the result differs from the expected one."""
    result = call(vae)
    tiling = vae.last_tiling
    return {
        "equal": torch.equal(result, expected),
        "shape": list(result.shape) == list(expected.shape),
        "largest_difference": float((result - expected).abs().max()),
        "mean_difference": float((result - expected).abs().mean()),
        "seam": _seam(result, expected),
        "spread": float(expected.std()),
        "tile": tiling and dataclasses.asdict(tiling.tile),
        "why": tiling and tiling.why,
    }


def _seam(result: torch.Tensor, expected: torch.Tensor) -> float:
    """The mean step of the difference where it is largest along a direction, in mean steps of the picture itself.

    Pictures are (..., height, width, channels), so that steps are from column to column.
    """
    steps = (result - expected).diff(dim=-2).abs().flatten(0, -3).mean(dim=(0, 2))
    return float(steps.max() / expected.diff(dim=-2).abs().mean())


def _whole_and_tiled(kind: str, call: Any, total_bytes: int) -> dict[str, Any]:
    _with_total(PLENTY_BYTES)
    expected = call(_vae(kind))
    vae = _placed(kind)
    whole = _compared(vae, call, expected)
    _with_total(total_bytes)
    return {"whole": whole, "tiled": _compared(vae, call, expected)}


def _decode(vae: Any, side: int = SIDE) -> torch.Tensor:
    return vae.decode(_noise(1, 4, side // 8, side // 8))


def case_kl_decode() -> Any:
    return _whole_and_tiled("kl", _decode, 400 * MIB)


def case_kl_encode() -> Any:
    return _whole_and_tiled("kl", lambda vae: vae.encode(_picture(1, SIDE)), 300 * MIB)


def case_taesd_decode() -> Any:
    return _whole_and_tiled("taesd", _decode, 400 * MIB)


def case_kl_decode_larger() -> Any:
    return _whole_and_tiled("kl", functools.partial(_decode, side=512), 1600 * MIB)


def case_batch_picture_by_picture() -> Any:
    """Memory for one picture at a time: no tiles, the same bits as one by one."""
    latents = _noise(3, 4, SIDE // 8, SIDE // 8)
    _with_total(PLENTY_BYTES)
    vae = _placed("kl")
    one_by_one = torch.cat([vae.decode(latent[None]) for latent in latents])
    _with_total(800 * MIB)
    return _compared(vae, lambda vae: vae.decode(latents), one_by_one)


def case_a_picture_with_time() -> Any:
    """A latent (N, C, 1, H, W), whole and in tiles, beside the same without time."""
    latent, vae, found = _noise(1, 4, SIDE // 8, SIDE // 8), _placed("kl"), []
    for total_bytes in (PLENTY_BYTES, 400 * MIB):
        _with_total(total_bytes)
        found.append(_compared(vae, lambda vae: vae.decode(latent[:, :, None]), vae.decode(latent)))
    return found


def _video(vae: Any, side: int = VIDEO_SIDE) -> torch.Tensor:
    """Nine frames that differ little, as those of a video do."""
    return vae.decode(_noise(1, 16, 1, side // 8, side // 8) + 0.2 * _noise(1, 16, 3, side // 8, side // 8))


def case_video_in_space() -> Any:
    needed_bytes = _vae("wan").memory_used_decode((1, 16, 3, VIDEO_SIDE // 8, VIDEO_SIDE // 8), torch.float32)
    return _whole_and_tiled("wan", _video, int(0.57 * needed_bytes))


def case_video_encode() -> Any:
    return _whole_and_tiled("wan", lambda vae: vae.encode(_picture(1, VIDEO_SIDE).expand(5, -1, -1, -1)), 400 * MIB)


def case_video_in_time() -> Any:
    """A VAE whose need grows with the frames alone, so that smaller tiles in space would not help."""
    _with_total(PLENTY_BYTES)
    expected = _video(_vae("wan"))
    vae = _placed("wan")
    vae.memory_used_decode = lambda shape, dtype: 300 * MIB * shape[2]
    _with_total(700 * MIB)
    bars: list[Any] = []
    stock = comfy.utils.ProgressBar

    class Bar(stock):  # type: ignore[misc,valid-type]
        def __init__(self, total: int) -> None:
            super().__init__(total)
            bars.append(self)

    comfy.utils.ProgressBar = Bar
    try:
        result = _compared(vae, _video, expected)
    finally:
        comfy.utils.ProgressBar = stock
    return {**result, "progress": [(bar.current, bar.total) for bar in bars]}


def case_tiles_that_the_model_lays() -> Any:
    """A VAE that newer hosts let cut its input by itself, and that runs out of memory twice."""
    _with_total(PLENTY_BYTES)
    decode, vae = functools.partial(_video, side=128), _placed("wan")
    expected = decode(_vae("wan"))
    vae.handles_tiling = True
    vae.first_stage_model.decode_tiled = lambda latent, **tiles: vae.first_stage_model.decode(latent)
    simulation = xpu_sim.current()
    simulation.set_faults([xpu_sim.Fault(operator="convolution", kind="out_of_memory", nth=9, times=2)])
    try:
        return _compared(vae, decode, expected)
    finally:
        simulation.clear_faults()
        del vae.first_stage_model.decode_tiled


def case_formats_that_the_host_notes() -> Any:
    """The dtypes that newer hosts noted of weights, where they are not the weights' own: placed, and after a fault."""
    _with_total(PLENTY_BYTES)
    vae, _ = place_vae(_vae("kl"), placement_for("xpu:0", "bf16"))
    found = {"placed": _noted_wrongly(vae.first_stage_model)}
    simulation = xpu_sim.current()
    simulation.set_faults([xpu_sim.Fault(operator="convolution", kind="nan", nth=9)])
    stock, seen = vae.first_stage_model.decode, []

    def decode(*arguments: Any, **options: Any) -> Any:
        seen.append(_noted_wrongly(vae.first_stage_model))
        return stock(*arguments, **options)

    vae.first_stage_model.decode = decode
    try:
        _decode(vae)
    finally:
        simulation.clear_faults()
        del vae.first_stage_model.decode
    return {**found, "while": seen, "after": _noted_wrongly(vae.first_stage_model)}


def _noted_wrongly(network: torch.nn.Module) -> list[str]:
    return [
        name
        for name, module in network.named_modules()
        for own, parameter in module.named_parameters(recurse=False)
        if getattr(module, f"{own}_comfy_model_dtype", parameter.dtype) != parameter.dtype
    ]


def case_retries() -> Any:
    """Two kinds of failure for want of memory, once and again: the whole is repeated, then done in tiles."""
    _with_total(PLENTY_BYTES)
    expected = _decode(_vae("kl"))
    found: dict[str, Any] = {}
    for kind in ("out_of_memory", "native_api_39"):
        found[kind] = {}
        for times in (1, 2):
            simulation = xpu_sim.current()
            simulation.set_faults([xpu_sim.Fault(operator="convolution", kind=kind, nth=9, times=times)])
            found[kind][times] = _compared(_placed("kl"), _decode, expected)
            found[kind][times]["fired"] = list(simulation.statistics().faults_fired)
            simulation.clear_faults()
    return found


def case_no_tile_works() -> Any:
    """Every attempt on the device fails: the CPU carries on, and the next call is on the device again."""
    _with_total(PLENTY_BYTES)
    expected = _decode(_vae("kl"))
    simulation = xpu_sim.current()
    simulation.set_faults([xpu_sim.Fault(operator="convolution", kind="out_of_device_memory", times=None)])
    vae = _placed("kl")
    found = _compared(vae, _decode, expected)
    found["fired"] = simulation.statistics().faults_fired[0]
    simulation.clear_faults()
    return {**found, "next_equal": torch.equal(_decode(vae), expected)}


def case_unknown_error() -> Any:
    """An error that is not known is not retried."""
    _with_total(PLENTY_BYTES)
    simulation = xpu_sim.current()
    simulation.set_faults([xpu_sim.Fault(operator="convolution", kind="error", times=None, message="odd")])
    try:
        _decode(_placed("kl"))
    except RuntimeError as error:
        return {"message": str(error), "fired": simulation.statistics().faults_fired[0]}
    finally:
        simulation.clear_faults()
    return {}


def case_single_allocation_limit() -> Any:
    """Memory is plentiful, but nothing larger than the profile's limit (20 MiB here) can be allocated."""
    _with_total(PLENTY_BYTES)
    expected = _decode(_vae("kl"))
    vae = place_vae(_vae("kl"), placement_for("xpu:1", "fp32"))[0]
    return _compared(vae, _decode, expected)


def case_objects() -> Any:
    """What other nodes do with a VAE."""
    _with_total(PLENTY_BYTES)
    vae = _placed("kl")
    twin = copy.copy(vae)
    latent = _noise(1, 4, SIDE // 8, SIDE // 8)
    tiled = twin.decode_tiled(latent, tile_x=16, tile_y=16, overlap=4)
    again, _ = place_vae(twin, placement_for("cpu", "fp32"))
    return {
        "is_a_vae": isinstance(vae, comfy.sd.VAE) and isinstance(twin, PlacedVAE),
        "tiled_shape": list(tiled.shape),
        "device_again": str(again.device),
        "close_on_cpu": float((again.decode(latent) - vae.decode(latent)).abs().max()),
    }
