"""Loads model files with ComfyUI's own loaders, onto a chosen device and in a chosen precision."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import comfy.clip_vision
import comfy.controlnet
import comfy.model_management as model_management
import comfy.sd
import comfy.utils
import folder_paths
import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name
import torch
from comfy.cli_args import args

from ...choice import AUTO
from ...decision import Kind
from ...machine.devices import Device
from ...placement import Placement
from ...precision import name_of
from ...recovery.faults import LOSSES, FaultKind
from ...recovery.ladder import Failure, Rung
from ...recovery.watch import watched
from ...residency import ALL
from ...weights.check import CheckpointError, check_file
from ...weights.contents import Content
from ...weights.conversion import HALVES
from .. import hooks, int8
from ..choices import check_input, model_files, model_path, vae_names
from ..inventory import as_default, placement_for
from ..memory import free_others
from ..placing.deciding import file_format
from ..recovery.lost import lose_dead
from ..recovery.rungs import report_fault
from ..recovery.weights import remember
from ..running.clip import place_clip
from ..running.clip_vision import place_clip_vision
from ..running.controlnet import place_controlnet
from ..running.sampling import place_model
from ..running.upscaling import PlacedUpscaler
from ..running.vae import place_vae
from ..streaming import may_stream
from ..target import HOST, is_dynamic, unload
from .complaints import explained, forgive_decoder, missing_weights
from .outlook import gates_for, told
from .reading import Reading
from .straight import straight

VAE_HOOK = hooks.named("VAE format")

Read = TypeVar("Read")

_busy: contextvars.ContextVar[bool] = contextvars.ContextVar("xpu_nodes_loading", default=False)


def load_checkpoint(name: str, placement: Placement) -> tuple[tuple[Any, Any, Any], Placement]:
    """Loads a checkpoint's MODEL, CLIP and VAE (None where the file has none).

    Raises:
        CheckpointError: the file cannot be used.
    """
    path = model_path("checkpoints", name)
    dtypes = {kind: file_format(placement, kind) for kind in (Kind.MODEL, Kind.CLIP, Kind.VAE)}
    placement = told(placement, Content.WHOLE, path, dtype=dtypes[Kind.MODEL])
    read = functools.partial(_read_checkpoint, path, dtypes=dtypes)
    (model, clip, vae), placement = _read_to(placement, functools.partial(read, resident=int8.residence(placement)))
    if model is None:
        raise CheckpointError(f"{name} holds no diffusion model: load it with the loader for what it holds.")
    again = functools.partial(_read_checkpoint, path, dtypes={**dtypes, Kind.MODEL: model.model_dtype()})
    _keep_way(model, name, placement, lambda device: again(device, parts="model")[0])
    placed, effective = place_model(model, placement, owned=True)
    if clip is not None:
        _keep_way(clip.patcher, name, placement, lambda device: again(device, parts="clip")[1].patcher)
        clip, _ = place_clip(clip, placement)
    if vae is not None and vae.first_stage_model is not None:
        _keep_way(vae.patcher, name, placement, lambda device: again(device, parts="vae")[2].patcher)
        vae, _ = place_vae(vae, placement, owned=True)
    return (placed, clip, vae), effective.noting(_lacks(clip, vae))


def _lacks(clip: Any, vae: Any) -> str:
    parts = {"text encoder": clip, "VAE": getattr(vae, "first_stage_model", None)}
    absent = [what for what, part in parts.items() if part is None]
    return f"the file holds no {' and no '.join(absent)}" if absent else ""


def _read_checkpoint(
    path: Path,
    device: torch.device,
    *,
    dtypes: Mapping[Kind, torch.dtype | None],
    resident: str | None = None,
    parts: str = "model clip vae",
) -> tuple[Any, Any, Any]:
    """The parts of a checkpoint; without `resident` a MODEL's weights are read where ComfyUI reads them."""
    fits = False
    with _loading(device, path) as (reading, _), vae_dtype(dtypes[Kind.VAE]):
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(path),
            output_model="model" in parts,
            output_vae="vae" in parts,
            output_clip="clip" in parts,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            model_options=_options(dtypes[Kind.MODEL]),
            te_model_options=_clip_options(device, dtypes[Kind.CLIP]),
        )
        if model is not None and resident is not None:
            fits = read_to_its_device(model, device, resident, reading)
    if fits:
        model_management.load_models_gpu([model], force_full_load=True)
    return model, clip, vae


def load_diffusion_model(name: str, weight_dtype: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a MODEL; `weight_dtype` is the stock loader's choice of fp8 storage, or "default".

    Raises:
        CheckpointError: the file cannot be used.
        ValueError: there is no such storage format.
    """
    check_input("weight_dtype", weight_dtype)
    path = model_path("diffusion_models", name)
    options = _options(file_format(placement, Kind.MODEL))
    if weight_dtype != "default":
        options["dtype"] = getattr(torch, f"float8_{weight_dtype.removeprefix('fp8_').removesuffix('_fast')}")
        options["fp8_optimizations"] = weight_dtype.endswith("_fast")
    placement = told(placement, Content.MODEL, path, dtype=options.get("dtype"))

    def read(device: torch.device, resident: str | None = None) -> Any:
        fits = False
        with _loading(device, path) as (reading, _):
            model = comfy.sd.load_diffusion_model(str(path), model_options=options)
            if resident is not None:
                fits = read_to_its_device(model, device, resident, reading)
        if fits:
            model_management.load_models_gpu([model], force_full_load=True)
        return model

    model, placement = _read_to(placement, functools.partial(read, resident=int8.residence(placement)))
    _keep_way(model, name, placement, read)
    return place_model(model, placement, owned=True)


def load_clip(names: Sequence[str], kind: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a CLIP from one to four text encoder files.

    Raises:
        CheckpointError: a file cannot be used.
        ValueError: there is no such family of text encoders.
    """
    check_input("type", kind)
    paths = [model_path("text_encoders", name) for name in names]
    placement = told(placement, Content.TEXT_ENCODER, *paths)
    clip_type = getattr(comfy.sd.CLIPType, kind.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)

    def read(device: torch.device) -> Any:
        with _loading(device, *paths):
            return comfy.sd.load_clip(
                ckpt_paths=[str(path) for path in paths],
                embedding_directory=folder_paths.get_folder_paths("embeddings"),
                clip_type=clip_type,
                model_options=_clip_options(device, file_format(placement, Kind.CLIP)),
            )

    clip, placement = _read_to(placement, read)
    _keep_way(clip.patcher, ", ".join(names), placement, lambda device: read(device).patcher)
    return place_clip(clip, placement)


def load_vae(name: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a VAE with ComfyUI's own node: a file, a small decoder made of two, or one that needs none.

    Raises:
        CheckpointError: there is no such VAE, or a file cannot be used.
    """
    paths = _vae_paths(name)

    def read(device: torch.device) -> Any:
        with _loading(device, *paths) as (_, missing), vae_dtype(file_format(placement, Kind.VAE)):
            node: Any = host_nodes.NODE_CLASS_MAPPINGS["VAELoader"]
            answer = getattr(node(), node.FUNCTION)(vae_name=name)
            vae = getattr(answer, "result", answer)[0]  # a V3 node's outputs are in an object
            forgive_decoder(vae.first_stage_model, missing, name)
        return vae

    vae, placement = _read_to(placement, read)
    _keep_way(vae.patcher, name, placement, lambda device: read(device).patcher)
    return place_vae(vae, placement, owned=True)


def _vae_paths(name: str) -> list[Path]:
    """The files that the stock VAE loader reads for one of its choices."""
    small = model_files("vae_approx")
    if name in small and name in vae_names():
        return [model_path("vae_approx", name)]
    if name in model_files("vae") or name not in vae_names():
        return [model_path("vae", name)]
    halves = (f"{name}_encoder.", f"{name}_decoder.")
    return [model_path("vae_approx", file) for file in small if file.startswith(halves)]


def load_controlnet(name: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a CONTROL_NET.

    Raises:
        CheckpointError: the file cannot be used.
    """
    options = _options(file_format(placement, Kind.CONTROLNET))

    def load(path: str) -> Any:
        return comfy.controlnet.load_controlnet(path, model_options=options)

    control, placement, read = _read_file("controlnet", name, placement, load)
    if control is None:
        raise CheckpointError(f"{name} holds no ControlNet: choose another file.")
    for patcher in control.get_models():
        _keep_way(patcher, name, placement, lambda device: read(device).get_models()[-1])
    return place_controlnet(control, placement)


def load_clip_vision(name: str, placement: Placement) -> tuple[Any, Placement]:
    """Loads a CLIP_VISION.

    Raises:
        CheckpointError: the file cannot be used.
    """
    vision, placement, read = _read_file("clip_vision", name, placement, lambda path: comfy.clip_vision.load(path))
    if vision is None:
        raise CheckpointError(f"{name} holds no CLIP vision model: choose another file.")
    _keep_way(vision.patcher, name, placement, lambda device: read(device).patcher)
    return place_clip_vision(vision, placement)


def load_upscale_model(name: str, placement: Placement) -> tuple[PlacedUpscaler, Placement]:
    """Loads an UPSCALE_MODEL.

    Raises:
        CheckpointError: the file cannot be used.
    """
    from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

    def load(path: str) -> Any:
        weights = comfy.utils.load_torch_file(path, safe_load=True)
        if "module.layers.0.residual_group.blocks.0.norm1.weight" in weights:
            weights = comfy.utils.state_dict_prefix_replace(weights, {"module.": ""})
        return ModelLoader().load_from_state_dict(weights).eval()

    try:
        model, placement, read = _read_file("upscale_models", name, placement, load)
    except UnsupportedModelError as error:
        raise CheckpointError(f"{name} is no upscale model that is known here: choose another file.") from error
    if not isinstance(model, ImageModelDescriptor):
        raise CheckpointError(f"{name} does not upscale single images: choose another file.")
    upscaler = PlacedUpscaler(model, placement)
    remember(upscaler.patcher, name, lambda: read(HOST).model)
    return upscaler, upscaler.placement


def _keep_way(patcher: Any, name: str, placement: Placement, read: Callable[[torch.device], Any]) -> None:
    """Has a patcher's model be read again: its weights after a loss, and a copy by ComfyUI's own device nodes.

    Args:
        read: answers a patcher whose model is read with a device as ComfyUI's default.
    """

    def again(*, disable_dynamic: bool = False) -> Any:
        copy = read(HOST) if disable_dynamic else _read_to(placement, read)[0]
        unload(
            copy
        )  # who asks keeps its model only: ComfyUI would list that as loaded by nobody, and then fail over it
        return copy

    remember(patcher, name, lambda: read(HOST).model)
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (again, ())


def _read_file(
    folder: str, name: str, placement: Placement, load: Callable[[str], Read]
) -> tuple[Read, Placement, Callable[[torch.device], Read]]:
    """Reads one file as `_read_to` does; the third answer is what reads it, with a device as ComfyUI's default."""
    path = model_path(folder, name)

    def read(device: torch.device) -> Read:
        with _loading(device, path):
            return load(str(path))

    return *_read_to(placement, read), read


def _read_to(placement: Placement, read: Callable[[torch.device], Read]) -> tuple[Read, Placement]:
    """Reads with the placement's device as ComfyUI's default, or with the host as that where the device fails.

    ComfyUI's loaders put small models onto the device at once; where that fails they can go there later.
    """
    try:
        device = placement.device.torch_device
        return watched(lambda: read(device), device, "load"), placement
    except (RuntimeError, MemoryError) as error:
        failure = Failure.of(error)
    leave_for_host(failure, placement.device)
    if failure.kind in LOSSES:
        again = placement_for(placement.device.id, placement.precision, placement.resident)
        placement = dataclasses.replace(again, requested=placement.requested)
    return read(HOST), placement


def leave_for_host(failure: Failure, device: Device) -> None:
    """Reports that a file is read to the host because its device failed, and frees what that holds.

    Raises:
        BaseException: the failure itself, where that is no reason.
    """
    if failure.kind is FaultKind.UNKNOWN or device.type == "cpu":
        raise failure.error
    report_fault(failure, Rung.HOST, device=device.id, stage="load", words="loading to main memory")
    if failure.kind in LOSSES:
        lose_dead(failure.error)
    else:
        free_others(device.torch_device, [])


def read_to_its_device(model: Any, device: torch.device, resident: str, reading: Reading | None) -> bool:
    """Has a MODEL's weights be read to its device, where all of them fit there beside a step's work; whether they do.

    ComfyUI by itself reads them into host memory first, unless the device has more of it free than the host has. Where
    they do not fit, they stream from the file's own memory at first. A pack that answers for ComfyUI's default device
    (MultiGPU) may have had the model built on another one: then they are read to the host.
    """
    if reading is not None and model.load_device != device:
        reading.send(model.model, HOST)
    if device == HOST or model.load_device != device or is_dynamic(model):
        return False
    room_bytes = model_management.get_free_memory(device) - model_management.minimum_inference_memory()
    fits = resident in (AUTO, ALL) and sum(weight.nbytes for weight in model.model.parameters()) < room_bytes
    if reading is not None:
        if fits:
            reading.send(model.model, device)
        elif may_stream(model, resident):
            reading.stream(model.model.diffusion_model)
    return fits


def _options(dtype: torch.dtype | None) -> dict[str, Any]:
    return {} if dtype is None else {"dtype": dtype}


def _clip_options(device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
    return {"load_device": device, "offload_device": model_management.text_encoder_offload_device(), **_options(dtype)}


@contextlib.contextmanager
def vae_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """A VAE that is made in the block takes this dtype at once, as by ComfyUI's flags: later it would be rounded."""
    if dtype not in (torch.float32, *HALVES):
        yield
        return
    wanted = {f"{name_of(known)}_vae": known == dtype for known in (torch.float32, *HALVES)}
    with hooks.put_meanwhile(VAE_HOOK, args, "a VAE is loaded in its format, as by ComfyUI's flags", **wanted):
        yield


def is_loading() -> bool:
    """Whether one of our loaders reads files with ComfyUI's functions now."""
    return _busy.get()


@contextlib.contextmanager
def _loading(device: torch.device, *paths: Path) -> Iterator[tuple[Reading | None, list[str]]]:
    """Checks the files, loads in the block with the device as ComfyUI's default, and explains what goes wrong.

    The block is given the weights that turn out to be missing, which it may forgive.
    """
    for path in paths:
        # Newer hosts have no such setting: they never load otherwise.
        check_file(path, pickles_allowed=getattr(comfy.utils, "ALWAYS_SAFE_LOAD", True))
    names = ", ".join(path.name for path in paths)
    token = _busy.set(True)
    try:
        with explained(*paths):
            with as_default(device), gates_for(device, paths), missing_weights() as missing, straight(paths) as reading:
                yield reading, missing
            if missing:
                raise CheckpointError(f"{names} lacks weights ({missing[0]}): it is incomplete, download it again.")
    except BaseException:
        gc.collect()
        model_management.soft_empty_cache()
        raise
    finally:
        _busy.reset(token)
