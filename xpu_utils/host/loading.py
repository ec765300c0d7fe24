"""Loads model files with ComfyUI's own loaders, onto a chosen device and in a chosen precision."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import comfy.clip_vision
import comfy.controlnet
import comfy.model_management as model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args

from ..checkpoints import CheckpointError, check_file
from ..faults import FaultKind
from ..ladder import Failure
from ..placement import Placement
from ..residency import ALL, AUTO
from ..tensor_file import LoadError
from . import cpu_engine
from .choices import model_files
from .health import lose
from .inventory import as_default, placement_for
from .moving import free_others
from .placing import place_clip, place_clip_vision, place_controlnet, place_model, place_vae
from .reading import straight
from .recovery import report
from .streaming import is_dynamic
from .upscaling import PlacedUpscaler
from .weights import HOST, remember

Read = TypeVar("Read")

# The beginnings of the warnings with which ComfyUI reports weights it did not find in a file. It then goes on
# with uninitialised memory in their place.
_MISSING = ("unet missing:", "clip missing:", "Missing VAE keys", "missing controlnet keys:")
# Weights that files leave out rightly: ComfyUI computes or ignores them.
_OPTIONAL = ("logit_scale", "text_projection", "position_ids", "encoder.", "quant_conv.", "log_sigmas")


def model_path(folder: str, name: str) -> Path:
    """The path of a listed model file.

    Raises:
        CheckpointError: the folder lists no such file; names that leave the folder are never listed.
    """
    if name not in model_files(folder):
        raise CheckpointError(f"{name} is not in the {folder} folder: put it there or choose another file.")
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def load_checkpoint(name: str, placement: Placement, *, resident: str = AUTO) -> tuple[tuple[Any, Any, Any], Placement]:
    """Loads a checkpoint's MODEL, CLIP and VAE (None where the file has none).

    Raises:
        CheckpointError: the file cannot be used.
    """
    path = model_path("checkpoints", name)
    read = functools.partial(_read_checkpoint, path, dtype=cpu_engine.dtype_for(placement), resident=resident)
    (model, clip, vae), placement = _read_to(placement, read)
    if model is None:
        raise CheckpointError(f"{name} holds no diffusion model: load it with the loader for what it holds.")
    again = functools.partial(_read_checkpoint, path, HOST, dtype=model.model_dtype())
    remember(model, name, lambda: again(parts="model")[0].model)
    placed, effective = place_model(model, placement, owned=True, resident=resident)
    if clip is not None:
        remember(clip.patcher, name, lambda: again(parts="clip")[1].cond_stage_model)
        clip, _ = place_clip(clip, placement)
    if vae is not None and vae.first_stage_model is not None:
        remember(vae.patcher, name, lambda: again(parts="vae")[2].first_stage_model)
        vae, _ = place_vae(vae, placement, owned=True)
    return (placed, clip, vae), effective


def _read_checkpoint(
    path: Path, device: torch.device, *, dtype: torch.dtype | None, resident: str = AUTO, parts: str = "model clip vae"
) -> tuple[Any, Any, Any]:
    with _loading(device, path), _vae_dtype(dtype):
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(path),
            output_model="model" in parts,
            output_vae="vae" in parts,
            output_clip="clip" in parts,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            model_options=_model_options(dtype),
            te_model_options=_clip_options(device, dtype),
        )
        if model is not None:
            _to_its_device(model, resident)
    return model, clip, vae


def load_diffusion_model(
    name: str, weight_dtype: str, placement: Placement, *, resident: str = AUTO
) -> tuple[Any, Placement]:
    """Loads a MODEL; `weight_dtype` is the stock loader's choice of fp8 storage, or "default".

    Raises:
        CheckpointError: the file cannot be used.
    """
    path = model_path("diffusion_models", name)
    options = _model_options(cpu_engine.dtype_for(placement))
    if weight_dtype != "default":
        options["dtype"] = getattr(torch, f"float8_{weight_dtype.removeprefix('fp8_').removesuffix('_fast')}")
        options["fp8_optimizations"] = weight_dtype.endswith("_fast")

    def read(device: torch.device) -> Any:
        with _loading(device, path):
            model = comfy.sd.load_diffusion_model(str(path), model_options=options)
            _to_its_device(model, resident)
            return model

    model, placement = _read_to(placement, read)
    remember(model, name, lambda: read(HOST).model)
    return place_model(model, placement, owned=True, resident=resident)


def load_clip(names: Sequence[str], kind: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a CLIP from one to three text encoder files.

    Raises:
        CheckpointError: a file cannot be used.
    """
    paths = [model_path("text_encoders", name) for name in names]
    clip_type = getattr(comfy.sd.CLIPType, kind.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)

    def read(device: torch.device) -> Any:
        with _loading(device, *paths):
            return comfy.sd.load_clip(
                ckpt_paths=[str(path) for path in paths],
                embedding_directory=folder_paths.get_folder_paths("embeddings"),
                clip_type=clip_type,
                model_options=_clip_options(device, cpu_engine.dtype_for(placement)),
            )

    clip, placement = _read_to(placement, read)
    remember(clip.patcher, ", ".join(names), lambda: read(HOST).cond_stage_model)
    return place_clip(clip, placement)


def load_vae(name: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a VAE.

    Raises:
        CheckpointError: the file cannot be used.
    """
    path = model_path("vae", name)

    def read(device: torch.device) -> Any:
        with _loading(device, path):
            weights = comfy.utils.load_torch_file(str(path), safe_load=True)
            return comfy.sd.VAE(sd=weights, dtype=cpu_engine.dtype_for(placement))

    vae, placement = _read_to(placement, read)
    if vae.first_stage_model is None:
        raise CheckpointError(f"{name} holds no VAE: choose another file.")
    remember(vae.patcher, name, lambda: read(HOST).first_stage_model)
    return place_vae(vae, placement, owned=True)


def load_controlnet(name: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a CONTROL_NET.

    Raises:
        CheckpointError: the file cannot be used.
    """
    path = model_path("controlnet", name)

    def read(device: torch.device) -> Any:
        with _loading(device, path):
            return comfy.controlnet.load_controlnet(
                str(path), model_options=_model_options(cpu_engine.dtype_for(placement))
            )

    control, placement = _read_to(placement, read)
    if control is None:
        raise CheckpointError(f"{name} holds no ControlNet: choose another file.")
    for patcher in control.get_models():
        remember(patcher, name, lambda: read(HOST).get_models()[-1].model)
    return place_controlnet(control, placement)


def load_clip_vision(name: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a CLIP_VISION.

    Raises:
        CheckpointError: the file cannot be used.
    """
    path = model_path("clip_vision", name)
    with _loading(placement.device.torch_device, path):
        vision = comfy.clip_vision.load(str(path))
    if vision is None:
        raise CheckpointError(f"{name} holds no CLIP vision model: choose another file.")
    return place_clip_vision(vision, placement)


def load_upscale_model(name: str, placement: Placement) -> tuple[PlacedUpscaler, Placement]:
    """Loads an UPSCALE_MODEL.

    Raises:
        CheckpointError: the file cannot be used.
    """
    from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

    path = model_path("upscale_models", name)
    try:
        with _loading(placement.device.torch_device, path):
            weights = comfy.utils.load_torch_file(str(path), safe_load=True)
            if "module.layers.0.residual_group.blocks.0.norm1.weight" in weights:
                weights = comfy.utils.state_dict_prefix_replace(weights, {"module.": ""})
            model = ModelLoader().load_from_state_dict(weights).eval()
    except UnsupportedModelError as error:
        raise CheckpointError(f"{name} is no upscale model that is known here: choose another file.") from error
    if not isinstance(model, ImageModelDescriptor):
        raise CheckpointError(f"{name} does not upscale single images: choose another file.")
    upscaler = PlacedUpscaler(model, placement)
    return upscaler, upscaler.placement


def _read_to(placement: Placement, read: Callable[[torch.device], Read]) -> tuple[Read, Placement]:
    """Reads with the placement's device as ComfyUI's default, or with the host as that where the device fails.

    ComfyUI's loaders put small models onto the device at once; where that fails they can go there later.
    """
    device = placement.device.torch_device
    try:
        return read(device), placement
    except (RuntimeError, MemoryError) as error:
        failure = Failure.of(error)
    if failure.kind is FaultKind.UNKNOWN or device == HOST:
        raise failure.error
    report(failure, device=placement.device.id, stage="load", words="loading to host memory")
    if failure.kind is FaultKind.DEVICE_LOST:
        lose(device, failure.error)
        placement = dataclasses.replace(
            placement_for(placement.device.id, placement.precision), requested=placement.requested
        )
    else:
        free_others(device, [])
    return read(HOST), placement


def _to_its_device(model: Any, resident: str) -> None:
    """Has ComfyUI load a MODEL to its device before its weights are read, where all of them fit beside a step's work.

    By itself it reads them into host memory first, unless the device has more of it free than the host has.
    """
    device = model.load_device
    if device == HOST or resident not in (AUTO, ALL) or is_dynamic(model):
        return
    weights_bytes = sum(weight.nbytes for weight in model.model.parameters())
    room_bytes = model_management.get_free_memory(device) - model_management.minimum_inference_memory()
    if weights_bytes < room_bytes:
        model_management.load_models_gpu([model], force_full_load=True)


def _model_options(dtype: torch.dtype | None) -> dict[str, Any]:
    return {} if dtype is None else {"dtype": dtype}


def _clip_options(device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
    """Device, and storage format where a small one was asked for: fp32 is what text encoders compute in anyway."""
    options: dict[str, Any] = {
        "load_device": device,
        "offload_device": model_management.text_encoder_offload_device(),
    }
    if dtype in (torch.bfloat16, torch.float16):
        options["dtype"] = dtype
    return options


@contextlib.contextmanager
def _vae_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Has a checkpoint's VAE take this dtype at once, as ComfyUI's own flags do: later it would have been rounded."""
    flags = {"fp32_vae": torch.float32, "bf16_vae": torch.bfloat16, "fp16_vae": torch.float16}
    before = {flag: getattr(args, flag) for flag in flags}
    try:
        if dtype in flags.values():
            vars(args).update({flag: dtype == flags[flag] for flag in flags})
        yield
    finally:
        vars(args).update(before)


@contextlib.contextmanager
def _loading(device: torch.device, *paths: Path) -> Iterator[None]:
    """Checks the files, loads in the block with the device as ComfyUI's default, and explains what goes wrong."""
    for path in paths:
        check_file(path, pickles_allowed=getattr(comfy.utils, "ALWAYS_SAFE_LOAD", False))
    names = ", ".join(path.name for path in paths)
    try:
        with as_default(device), _missing_weights() as missing, _explained(names), straight(paths):
            yield
        if missing:
            raise CheckpointError(f"{names} lacks weights ({missing[0]}): it is incomplete, download it again.")
    except BaseException:
        gc.collect()
        model_management.soft_empty_cache()
        raise


@contextlib.contextmanager
def _explained(names: str) -> Iterator[None]:
    """Turns the host's known complaints about a file into one sentence."""
    try:
        yield
    except LoadError as error:
        raise CheckpointError(str(error)) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{names} is a pickle that holds more than weights and was not read: use a .safetensors file."
        ) from error
    except (IndexError, KeyError) as error:  # what the host's detection runs into when parts are missing
        raise CheckpointError(f"{names} lacks parts that tell its kind ({error}): download it again.") from error
    except RuntimeError as error:
        if "Could not detect model type" in str(error):
            raise CheckpointError(f"{names} holds no model that ComfyUI knows: choose another file.") from error
        if "Error(s) in loading state_dict" in str(error):
            raise CheckpointError(f"{names} holds weights of unexpected shapes: download it again.") from error
        raise


class _Listener(logging.Handler):
    """Collects the names of weights that the host reports missing."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.missing: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(_MISSING):
            keys = [key.strip(" '\"[]") for key in message[message.index("[") :].split(",")]
            self.missing += [
                key for key in keys if key.endswith(".weight") and not any(part in key for part in _OPTIONAL)
            ]


@contextlib.contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """The names of required weights that the host misses in the block; it only logs them."""
    listener = _Listener()
    root = logging.getLogger()
    root.addHandler(listener)
    try:
        yield listener.missing
    finally:
        root.removeHandler(listener)
