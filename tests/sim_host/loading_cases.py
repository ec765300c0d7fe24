"""What our loaders make of a file, against ComfyUI's own way, on the CPU and a simulated device; see worker.py."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from safetensors.torch import load_file, save_file

from tests import xpu_sim
from tests.harness.models import MODELS
from xpu_utils.host import hooks
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loaders
from xpu_utils.host.loading import straight as reading
from xpu_utils.host.memory import apply_unloading_hook
from xpu_utils.weights import spans as file_pieces
from xpu_utils.weights.check import CheckpointError
from xpu_utils.weights.header import LoadError, entries
from xpu_utils.weights.pinned import shared_pool

CHECKPOINT = "sd15-tiny.safetensors"
OWN = Path(tempfile.mkdtemp())
"""Files that a case writes itself."""
NOT_IN_FILE = ("text_projection.weight", "logit_scale")
"""Weights that nobody computes with, and the host leaves uninitialised."""

for folder in ("checkpoints", "diffusion_models", "text_encoders", "vae", "controlnet", "clip_vision"):
    folder_paths.add_model_folder_path(folder, str(MODELS / folder))
    folder_paths.add_model_folder_path(folder, str(OWN))


@contextlib.contextmanager
def host_way() -> Iterator[None]:
    """ComfyUI's own way of loading, in the same loaders."""
    os.environ[hooks.DISABLE_VARIABLE] = reading.HOOK
    try:
        yield
    finally:
        del os.environ[hooks.DISABLE_VARIABLE]


def tensors(*modules: Any) -> dict[str, torch.Tensor]:
    """All parameters and buffers."""
    return {
        f"{index}.{name}": tensor
        for index, module in enumerate(modules)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def checkpoint(device: str, precision: str, name: str = CHECKPOINT) -> dict[str, torch.Tensor]:
    (model, clip, vae), _ = loaders.load_checkpoint(name, placement_for(device, precision))
    return tensors(model.model, clip.cond_stage_model, vae.first_stage_model)


def differences(load: Callable[[], dict[str, torch.Tensor]]) -> list[str]:
    """Names of tensors that differ in value, dtype, device or gradient from those that the host's way gives."""
    ours = load()
    with host_way():
        host = load()
    found = [name for name in host if name not in ours] + [name for name in ours if name not in host]
    for name in set(host) & set(ours):
        one, other = ours[name], host[name]
        kinds = [(tensor.dtype, tensor.device, tensor.requires_grad, tensor.shape) for tensor in (one, other)]
        same = kinds[0] == kinds[1] and torch.equal(_bits(one), _bits(other))
        if not same and not name.endswith(NOT_IN_FILE):
            found.append(f"{name}: {kinds}")
    return sorted(found)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def case_like_the_host() -> dict[str, list[str]]:
    """What differs from the host's way, by file, device and precision."""

    def model(device: str, precision: str) -> dict[str, torch.Tensor]:
        name = "sd15-tiny-unet.safetensors"
        return tensors(loaders.load_diffusion_model(name, "default", placement_for(device, precision))[0].model)

    def fp8(device: str, precision: str) -> dict[str, torch.Tensor]:
        name, placement = "sd15-tiny-unet.safetensors", placement_for(device, precision)
        return tensors(loaders.load_diffusion_model(name, "fp8_e4m3fn", placement)[0].model)

    def clip(device: str, precision: str) -> dict[str, torch.Tensor]:
        names = ["clip-l.safetensors"]
        return tensors(loaders.load_clip(names, "stable_diffusion", placement_for(device, precision))[0].patcher.model)

    def vae(device: str, precision: str) -> dict[str, torch.Tensor]:
        return tensors(loaders.load_vae("vae-sd15.safetensors", placement_for(device, precision))[0].first_stage_model)

    def controlnet(device: str, precision: str) -> dict[str, torch.Tensor]:
        name = "controlnet-sd15-tiny.safetensors"
        return tensors(loaders.load_controlnet(name, placement_for(device, precision))[0].control_model)

    parts = {"checkpoint": checkpoint, "model": model, "fp8": fp8, "clip": clip, "vae": vae, "controlnet": controlnet}
    places = [("cpu", "fp32"), ("cpu", "bf16"), ("cpu", "fp16"), ("xpu:0", "fp32"), ("xpu:0", "auto")]
    return {
        f"{name} {device} {precision}": differences(lambda load=load, at=(device, precision): load(*at))
        for name, load in parts.items()
        for device, precision in places
    }


def case_straight_to_the_device() -> dict[str, Any]:
    """How the bytes of a checkpoint's diffusion model came to the device, as they are and converted on the way."""
    found = {}
    weights = load_file(MODELS / "checkpoints" / CHECKPOINT)
    file_bytes = sum(value.nbytes for name, value in weights.items() if name.startswith("model.diffusion_model."))
    for precision in ("fp16", "fp32"):
        gc.collect()
        simulation = xpu_sim.current()
        simulation.reset_statistics()
        before = torch.xpu.memory_allocated(0)
        torch.xpu.reset_peak_memory_stats(0)
        (model, clip, vae), _ = loaders.load_checkpoint(CHECKPOINT, placement_for("xpu:0", precision))
        copies = [copy for copy in simulation.statistics().copies if copy.direction == "host_to_device"]
        model_bytes = sum(value.nbytes for value in model.model.parameters())
        devices = sorted({str(tensor.device) for tensor in model.model.parameters()})
        largest = max(model.model.parameters(), key=torch.Tensor.numel)
        held_bytes = torch.xpu.memory_allocated(0) - before
        peak_bytes = torch.xpu.max_memory_allocated(0) - before
        size_bytes = largest.nbytes
        largest.data = largest.data.cpu()
        found[precision] = {
            "devices": devices,
            "file": file_bytes,
            "pinned": sum(copy.bytes for copy in copies if copy.pinned and copy.non_blocking),
            "pageable": sum(copy.bytes for copy in copies if not copy.pinned),
            "held": held_bytes / model_bytes,
            "peak": peak_bytes / model_bytes,
            "freed": (held_bytes - (torch.xpu.memory_allocated(0) - before)) / size_bytes,
            "locked": shared_pool().used_bytes,
        }
        del model, clip, vae, largest
    return found


def _is_mapped(tensor: torch.Tensor, file: str) -> bool:
    """Whether the tensor's memory is a file's, by the system's own list."""
    spans = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(file)]
    ends = [[int(end, 16) for end in span.split("-")] for span in spans]
    return any(start <= tensor.data_ptr() < stop for start, stop in ends)


def case_a_file_for_the_device() -> dict[str, Any]:
    """How the bytes of a diffusion model's file came to a device that has room, and where they went without it."""
    name, simulation = "sd15-tiny-unet.safetensors", xpu_sim.current()
    found = {}
    for device, resident in (("xpu:0", "auto"), ("xpu:0", "45%"), ("xpu:1", "auto")):
        simulation.reset_statistics()
        model, _ = loaders.load_diffusion_model(name, "default", placement_for(device, "fp16", resident))
        copies = [copy for copy in simulation.statistics().copies if copy.direction == "host_to_device"]
        found[f"{device} {resident}"] = {
            "devices": sorted({str(tensor.device) for tensor in model.model.parameters()}),
            "pinned": sum(copy.bytes for copy in copies if copy.pinned and copy.non_blocking),
            "pageable": sum(copy.bytes for copy in copies if not copy.pinned),
            "file": sum(value.nbytes for value in load_file(MODELS / "diffusion_models" / name).values()),
            "mapped": sum(value.nbytes for value in model.model.parameters() if _is_mapped(value, name)),
            "locked": shared_pool().used_bytes,
        }
        del model
        gc.collect()
        comfy.model_management.unload_all_models()
        found[f"{device} {resident}"]["still locked"] = shared_pool().used_bytes

    def streamed() -> dict[str, torch.Tensor]:
        placement = placement_for("xpu:0", "fp32", "45%")
        return tensors(loaders.load_diffusion_model(name, "default", placement)[0].model)

    return {**found, "differences": differences(streamed)}


def case_full_pinned_budget() -> dict[str, Any]:
    """Loading to the device when no more memory may be locked."""
    pool = shared_pool()

    def streamed() -> dict[str, torch.Tensor]:
        (model, _, _), _ = loaders.load_checkpoint(CHECKPOINT, placement_for("xpu:0", "fp16", "45%"))
        return tensors(model.model)

    limit_bytes, pool.limit_bytes = pool.limit_bytes, 1
    try:
        found = differences(lambda: checkpoint("xpu:0", "fp16"))
        return {"differences": [*found, *differences(streamed)], "hooks": _hook()}
    finally:
        pool.limit_bytes = limit_bytes


def case_broken_files() -> dict[str, Any]:
    """What is said, and left behind, when a file ends or the disk fails while it is read."""

    class Failing(io.FileIO):
        def readinto(self, room: object) -> int:
            if self.tell() > 1 << 26:
                raise OSError(5, "Input/output error")
            return super().readinto(room)  # type: ignore[arg-type]

    class Cut(io.FileIO):
        def readinto(self, room: object) -> int:
            return 0 if self.tell() > 1 << 26 else super().readinto(room)  # type: ignore[arg-type]

    found, stock, pool = {}, file_pieces.FileIO, shared_pool()
    limit_bytes = pool.limit_bytes
    for name, opened in (("disk", Failing), ("cut", Cut)):
        for device, precision in (("cpu", "fp32"), ("xpu:0", "fp32"), ("xpu:0", "auto"), ("xpu:0", "unlocked")):
            gc.collect()
            before = torch.xpu.memory_allocated(0)
            file_pieces.FileIO = opened  # type: ignore[misc]
            pool.limit_bytes = 1 if precision == "unlocked" else limit_bytes
            try:
                checkpoint(device, precision.replace("unlocked", "fp32"))
                said = ""
            except CheckpointError as error:
                said = str(error)
            finally:
                file_pieces.FileIO, pool.limit_bytes = stock, limit_bytes  # type: ignore[misc]
            gc.collect()
            left = torch.xpu.memory_allocated(0) - before
            found[f"{name} {device} {precision}"] = {"said": said, "left": left, "locked": shared_pool().used_bytes}
    return found


def case_mapping() -> dict[str, Any]:
    """Which weights of a CPU's model are the file itself, and whether writing to one reaches the file."""
    path = OWN / "bf16.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(MODELS / "checkpoints" / CHECKPOINT).items()}, path)
    before = path.read_bytes()
    loaded = checkpoint("cpu", "bf16", path.name)
    parameters = [value for name, value in loaded.items() if value.numel() > 1000 and not name.endswith(NOT_IN_FILE)]
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(path) in line
    ]
    mapped = [value for value in parameters if any(start <= value.data_ptr() < stop for start, stop in spans)]
    mapped[0].data.fill_(7)
    return {
        "mapped": {dimensions: sum(value.dim() == dimensions for value in mapped) for dimensions in (2, 4)},
        "of": {dimensions: sum(value.dim() == dimensions for value in parameters) for dimensions in (2, 4)},
        "unchanged": path.read_bytes() == before,
    }


def case_cut_while_in_use() -> str:
    """What is said when weights that are the file's own memory are wanted after it was cut."""
    path = OWN / "cut.safetensors"
    weights = {name: value.float() for name, value in load_file(MODELS / "vae" / "vae-sd15.safetensors").items()}
    for padding in range(0, 64, 8):  # fp32 is mapped where it begins as the host's own does
        save_file(weights, path, metadata={"padding": " " * padding})
        if entries(path)[0].start % 64 == 0:
            break
    vae, _ = loaders.load_vae(path.name, placement_for("cpu", "fp32"))
    os.truncate(path, path.stat().st_size // 2)
    try:
        vae.decode(torch.zeros(1, 4, 8, 8))
    except LoadError as error:
        return str(error)
    return ""


def case_unaligned_fp32() -> dict[str, Any]:
    """Weights that do not begin where torch's own do: fp32 sums depend on it."""
    path = OWN / "fp32.safetensors"
    weights = {name: value.float() for name, value in load_file(MODELS / "vae" / "vae-sd15.safetensors").items()}
    for length in range(8):
        save_file(weights, path, metadata={"shift": "x" * 8 * length})
        if entries(path)[0].start % 64:
            break
    loaded, _ = loaders.load_vae(path.name, placement_for("cpu", "fp32"))
    unaligned = [name for name, value in loaded.first_stage_model.named_parameters() if value.data_ptr() % 64]
    return {"in_file": entries(path)[0].start % 64, "in_model": unaligned}


def case_read_once() -> dict[str, float]:
    """Bytes read by us to load a VAE on the CPU, in another format than the file's, by the file's size."""
    read_bytes = 0

    class Counting(io.FileIO):
        def readinto(self, room: object) -> int:
            nonlocal read_bytes
            count = super().readinto(room)  # type: ignore[arg-type]
            read_bytes += count
            return count

    found, stock = {}, file_pieces.FileIO
    file_pieces.FileIO = Counting  # type: ignore[misc]
    try:
        for precision in ("bf16", "fp32"):
            read_bytes = 0
            loaders.load_vae("vae-sd15.safetensors", placement_for("cpu", precision))
            found[precision] = read_bytes / (MODELS / "vae" / "vae-sd15.safetensors").stat().st_size
    finally:
        file_pieces.FileIO = stock  # type: ignore[misc]
    return found


def case_written_before_it_is_loaded() -> bool:
    """Whether what the host changes in a file's tensors, in place, is what the model gets."""
    path = OWN / "changed.safetensors"
    shutil.copy(MODELS / "vae" / "vae-sd15.safetensors", path)
    layer = torch.nn.Linear(512, 512, bias=False)
    name = "encoder.mid.attn_1.q.weight"
    with reading.straight([path]):
        weights = comfy.utils.load_torch_file(str(path))
        weights[name].mul_(2)
        layer.load_state_dict({"weight": weights[name].reshape(512, 512)})
    return torch.equal(layer.weight, 2 * load_file(path)[name].reshape(512, 512).float())


def case_progress() -> dict[str, Any]:
    """What ComfyUI's progress bar is told while a checkpoint is loaded."""
    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(lambda done, total, *_, **__: seen.append((done, total)))
    try:
        checkpoint("xpu:0", "fp32")
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    size_bytes = (MODELS / "checkpoints" / CHECKPOINT).stat().st_size
    return {"updates": len(seen), "ordered": seen == sorted(seen), "last": seen[-1] == (size_bytes, size_bytes)}


def case_unloading_what_only_refers_to_itself() -> int:
    """How many models are loaded after all were unloaded, while Python collected one of them."""
    layer = torch.nn.Linear(4, 4)
    patcher = comfy.model_patcher.ModelPatcher(layer, torch.device("xpu:0"), torch.device("cpu"))
    patcher.itself = patcher  # as an error's frames do
    comfy.model_management.load_models_gpu([patcher])
    loaded = comfy.model_management.current_loaded_models[0]
    loaded.model_finalizer = types.SimpleNamespace(detach=gc.collect)
    del layer, patcher
    stock = comfy.model_management.free_memory
    apply_unloading_hook()
    try:
        comfy.model_management.unload_all_models()
    finally:
        comfy.model_management.free_memory = stock
    return len(comfy.model_management.current_loaded_models)


def case_another_pack() -> dict[str, Any]:
    """What happens when somebody else has replaced the host's reader."""
    stock = comfy.utils.load_torch_file
    calls = []

    def another(ckpt: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(ckpt)
        return stock(ckpt, *arguments, **keywords)

    comfy.utils.load_torch_file = another
    try:
        checkpoint("cpu", "fp32")
        said = _hook()
    finally:
        comfy.utils.load_torch_file = stock
    checkpoint("cpu", "fp32")
    return {"called": len(calls), "said": said, "after": _hook(), "restored": comfy.utils.load_torch_file is stock}


def _hook() -> str:
    return next(str(hook) for hook in hooks.hooks() if hook.name == reading.HOOK)
