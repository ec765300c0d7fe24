"""Models whose weights DynamicVRAM streams: placed, failing, lost, with hooks that write to weights; see worker.py."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.neighbours import aimdo  # the host starts it before any pack

import comfy.hooks  # isort: skip
import comfy.model_management as model_management  # isort: skip
import comfy.sd  # isort: skip
import comfy.utils  # isort: skip
import folder_paths  # isort: skip
import nodes  # isort: skip
import torch  # isort: skip
from safetensors.torch import load_file, save_file  # isort: skip

from tests import xpu_sim  # isort: skip
from tests.harness.models import MODELS  # isort: skip
from xpu_utils.host import hooks, neighbours, streaming  # isort: skip
from xpu_utils.host.inventory import host_inventory, placement_for  # isort: skip
from xpu_utils.host.loading import load as loaders  # isort: skip
from xpu_utils.host.loading.straight import straight  # isort: skip
from xpu_utils.host.running.sampling import place_model

from xpu_utils.host.target import is_dynamic  # isort: skip
from xpu_utils.host.running.sampling import sample  # isort: skip

from .switched import switched_on  # isort: skip

CHECKPOINT = "sd15-tiny.safetensors"
LORA = "lora-sd15-tiny.safetensors"
STEPS = 3
OWN = Path(tempfile.mkdtemp())
"""Files that a case writes itself."""

for folder in ("checkpoints", "loras"):
    folder_paths.add_model_folder_path(folder, str(MODELS / folder))
folder_paths.add_model_folder_path("checkpoints", str(OWN))


@contextlib.contextmanager
def without_dynamic_vram() -> Iterator[None]:
    aimdo.switch_dynamic_vram(on=False)
    try:
        yield
    finally:
        aimdo.switch_dynamic_vram(on=True)


def conditions(hooked: Any = None) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    given = [[[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2)]
    if hooked is not None:
        given[0] = comfy.hooks.set_hooks_for_conditioning(given[0], hooked)
    return given


def empty() -> dict[str, torch.Tensor]:
    return {"samples": torch.zeros(1, 4, 8, 8)}


def core_loaded(path: Path, **options: Any) -> Any:
    """A MODEL by ComfyUI's own loader."""
    return comfy.sd.load_checkpoint_guess_config(str(path), output_clip=False, output_vae=False, model_options=options)[
        0
    ]


def stock(path: Path, device: str = "xpu:0", hooked: Any = None) -> torch.Tensor:
    """What ComfyUI's own nodes give without DynamicVRAM."""
    with without_dynamic_vram():
        placed = placement_for(device, "auto").device.torch_device
        model = core_loaded(path, dtype=torch.float32, load_device=placed)
        (latent,) = nodes.common_ksampler(model, 0, STEPS, 7.0, "euler", "normal", *conditions(hooked), empty())
    return latent["samples"].cpu()


def ours(model: Any, hooked: Any = None) -> tuple[torch.Tensor, Any]:
    """What our sampler gives with a placed model, and the placement that it ended on."""
    positive, negative = conditions(hooked)
    latent, placement = sample(
        "KSampler",
        model,
        empty(),
        "auto",
        "auto",
        seed=0,
        steps=STEPS,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        positive=positive,
        negative=negative,
        denoise=1.0,
    )
    return latent["samples"].cpu(), placement


def loaded(device: str = "xpu:0", name: str = CHECKPOINT, resident: str = "auto") -> Any:
    (model, _, _), placement = loaders.load_checkpoint(name, placement_for(device, "fp32", resident))
    return model, placement


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.std())


def held_of(model: Any, device: str) -> list[str]:
    """What a model's patcher and modules still have of a device."""
    owners = {"model": model.model, **dict(model.model.named_modules())}
    found = [
        f"{owner}.{name}"
        for owner, module in owners.items()
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items()
        if isinstance(value, torch.Tensor) and str(value.device) == device
    ]
    addresses = [str(value) for value in model.model.dynamic_vbars.values() if str(value.device) == device]
    pointers = {name: vars(module)["_v"][0].device for name, module in owners.items() if "_v" in vars(module)}
    return [*found, *addresses, *(name for name, home in pointers.items() if str(home) == device)]


def case_sampling() -> dict[str, Any]:
    """A model that is used where it was loaded; and how often its file is read with a share that is not followed."""
    expected = stock(MODELS / "checkpoints" / CHECKPOINT)
    reads, load_torch_file = [], comfy.utils.load_torch_file
    model, _ = loaded()
    got, _ = ours(model)
    told = {hook.name: str(hook) for hook in hooks.hooks()}[streaming.HOOK]

    def counted(*arguments: Any, **keywords: Any) -> Any:
        reads.append(arguments[0])
        return load_torch_file(*arguments, **keywords)

    counted.__module__ = load_torch_file.__module__
    comfy.utils.load_torch_file = counted
    try:
        shared, placement = loaded(resident="45%")
    finally:
        comfy.utils.load_torch_file = load_torch_file
    again, _ = ours(shared)
    return {
        "dynamic": [is_dynamic(model), is_dynamic(shared)],
        "differences": [difference(got, expected), difference(again, expected)],
        "reads": len(reads),
        "reason": placement.reason,
        "present": [name for name, _ in neighbours.present()],
        "hooks": [told, {hook.name: str(hook) for hook in hooks.hooks()}[streaming.HOOK]],
    }


def case_the_switch() -> dict[str, Any]:
    """Core's own loader and sampler with the switch on."""
    expected = stock(MODELS / "checkpoints" / CHECKPOINT)
    with switched_on():
        model = core_loaded(MODELS / "checkpoints" / CHECKPOINT, dtype=torch.float32)
        (latent,) = nodes.common_ksampler(model, 0, STEPS, 7.0, "euler", "normal", *conditions(), empty())
    return {
        "dynamic": is_dynamic(model),
        "difference": difference(latent["samples"].cpu(), expected),
        "hook": {hook.name: str(hook) for hook in hooks.hooks()}["protected sampling, BaseModel"],
    }


def case_out_of_memory() -> dict[str, Any]:
    """Every device runs out in the middle of sampling: the CPU goes on, and afterwards the model is where it was."""
    expected = stock(MODELS / "checkpoints" / CHECKPOINT)
    model, _ = loaded()
    simulation = xpu_sim.current()
    simulation.add_fault("convolution", "out_of_memory", nth=30, times=None)
    try:
        got, placement = ours(model)
    finally:
        simulation.clear_faults()
    after, back = ours(model)
    return {
        "ended": [placement.device.id, back.device.id],
        "differences": [difference(got, expected), difference(after, expected)],
        "dynamic": is_dynamic(model),
    }


def case_placed_elsewhere() -> dict[str, Any]:
    """A model of ComfyUI's own loader on the CPU and on another device; and one that nobody can read again."""
    path = MODELS / "checkpoints" / CHECKPOINT
    expected = stock(path)
    model = core_loaded(path, dtype=torch.float32)
    found: dict[str, Any] = {}
    for device in ("cpu", "xpu:1"):
        placed, _ = place_model(model, placement_for(device, "fp32"))
        got, placement = ours(placed)
        found[device] = {
            "ended": placement.device.id,
            "difference": difference(got, expected),
            "dynamic": is_dynamic(placed),
        }
    model.cached_patcher_init = None
    try:
        place_model(model, placement_for("cpu", "fp32"))
    except RuntimeError as error:
        found["said"] = str(error)
    return found


def case_hooks_that_write_to_weights() -> dict[str, float]:
    """A LoRA for one condition, on the CPU, with weights of the file's own format: they could be its mapping."""
    path = OWN / "fp32.safetensors"
    save_file({name: value.float() for name, value in load_file(MODELS / "checkpoints" / CHECKPOINT).items()}, path)
    lora = load_file(MODELS / "loras" / LORA)

    def hooked() -> Any:
        return comfy.hooks.create_hook_lora(lora=lora, strength_model=1.0, strength_clip=0.0)

    expected = stock(path, "cpu", hooked())
    got, _ = ours(loaded("cpu", path.name)[0], hooked())
    plain, _ = ours(loaded("cpu", path.name)[0])
    return {"hooked": difference(got, expected), "plain": difference(plain, expected)}


def case_a_mapping_of_somebody_else() -> bool:
    """Whether a weight that was read from one can be written to."""
    path, name = MODELS / "checkpoints" / CHECKPOINT, "model.diffusion_model.time_embed.0.weight"
    with straight([path]):
        source = comfy.utils.load_torch_file(str(path))[name]
        layer = torch.nn.Linear(*reversed(source.shape), bias=False, dtype=source.dtype)
        layer.load_state_dict({"weight": source})
    same = torch.equal(layer.weight, source)
    layer.weight.data.fill_(1)
    return same


def case_lost_device() -> dict[str, Any]:
    """The device is lost in the middle of sampling, then the next one, until the CPU is left; runs last."""
    expected = stock(MODELS / "checkpoints" / CHECKPOINT)
    model, _ = loaded()
    found = []
    for device in host_inventory().accelerators:
        simulation = xpu_sim.current()
        simulation.add_fault("convolution", "device_lost", nth=30, device=device.index)
        got, placement = ours(model)
        simulation.clear_faults()
        found.append(
            {
                "ended": placement.device.id,
                "difference": difference(got, expected),
                "held": held_of(model, device.id),
                "dynamic": is_dynamic(model),
            }
        )
    after, placement = ours(model)
    return {"lost": found, "after": difference(after, expected), "loaded": len(model_management.current_loaded_models)}
