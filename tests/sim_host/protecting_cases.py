"""What stands in front of ComfyUI's functions, and what is left alone; see worker.py."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import folder_paths
import nodes as host_nodes
import torch
from comfy.ldm.hunyuan_video.upsampler import HunyuanVideo15SRModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from tests import xpu_sim
from tests.harness.models import MODELS
from xpu_utils.host import hooks
from xpu_utils.host.protecting import obstacles
from xpu_utils.host.protecting.repeating import Repeating
from xpu_utils.host.protecting.settings import Protection
from xpu_utils.host.protecting.touches import Touch
from xpu_utils.host.protecting.twins import Twins
from xpu_utils.recovery.faults import NotFiniteError
from xpu_utils.recovery.ladder import LadderExhaustedError

folder_paths.add_model_folder_path("diffusion_models", str(MODELS / "diffusion_models"))


class Owner:
    """Has functions that are stood in for."""

    def draw(self, count: int) -> list[float]:
        return [float(number) for number in torch.rand(count)]

    @classmethod
    def named(cls) -> str:
        return f"stock {cls.__name__}"

    def fails(self) -> None:
        raise KeyError("stock's own")


def _exhausted(cause: Exception) -> LadderExhaustedError:
    error = LadderExhaustedError("given up")
    error.__cause__ = cause
    return error


def _answered(error: Exception, function: str = "draw", *arguments: Any) -> Any:
    """What a call gives whose work draws a random number, and then fails."""

    def work() -> None:
        torch.rand(1)
        raise error

    touch = Touch("touch", "for a test", [(Owner, function)], lambda *_: work)
    touch.apply()
    torch.manual_seed(1)
    try:
        return getattr(Owner(), function)(*arguments)
    except (RuntimeError, KeyError, model_management.InterruptProcessingException) as raised:
        return repr(raised)
    finally:
        touch.take_back()


def case_what_fails() -> Any:
    torch.manual_seed(1)
    return {
        "stock": Owner().draw(2),
        "ours": _answered(RuntimeError("ours"), "draw", 2),
        "given up": _answered(_exhausted(torch.OutOfMemoryError("no room")), "draw", 2),
        "not finite": _answered(_exhausted(NotFiniteError("NaN")), "draw", 2),
        "stopped": _answered(model_management.InterruptProcessingException(), "draw", 2),
        "both": _answered(RuntimeError("ours"), "fails"),
    }


def case_who_is_in_front() -> Any:
    """Ours is put around theirs, then theirs around ours."""
    found: dict[str, Any] = {}
    touch = Touch("touch", "for a test", [(Owner, "named")], lambda stock, cls: lambda: f"ours around {stock(cls)}")
    stock = vars(Owner)["named"]
    touch.apply()
    touch.apply()
    found["ours"] = Owner.named()
    ours = vars(Owner)["named"]

    def named(cls: type) -> str:
        return f"theirs around {ours.__func__(cls)}"

    Owner.named = classmethod(named)  # type: ignore[assignment,method-assign]
    found["theirs in front"] = Owner.named()
    touch.apply()
    found["hook"] = str(next(hook for hook in hooks.hooks() if hook.name == "touch"))
    touch.take_back()
    found["taken back behind theirs"] = Owner.named()
    Owner.named = ours  # type: ignore[method-assign]
    touch.take_back()
    found["taken back"] = vars(Owner)["named"] is stock
    missing = Touch("missing", "for a test", [(Owner, "no such function")], lambda *_: None)
    missing.apply()
    found["missing"] = str(next(hook for hook in hooks.hooks() if hook.name == "missing"))
    return found


def _model() -> Any:
    path = folder_paths.get_full_path_or_raise("diffusion_models", "sd15-tiny-unet.safetensors")
    return comfy.sd.load_diffusion_model(path)


def case_what_is_left_alone() -> Any:
    def changed(change: Callable[[Any], object]) -> str:
        model = _model().clone()
        change(model)
        return obstacles.why_not_model(model)

    def compile_it(model: Any) -> None:
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", lambda executor, *rest: executor(*rest))

    def bring_another(model: Any) -> None:
        model.model = torch.nn.Module()
        model.model.diffusion_model = torch.nn.Linear(1, 1)

    return {
        "as it is": changed(lambda model: None),
        "compiled": changed(compile_it),
        "replaced": changed(lambda model: model.add_object_patch("diffusion_model", torch.nn.Linear(1, 1))),
        "split": changed(lambda model: model.set_additional_models("multigpu", [ModelPatcher(model.model, 0, 0)])),
        "its own network": changed(bring_another),
        "elsewhere": changed(lambda model: setattr(model, "load_device", torch.device("meta"))),
        "another class": obstacles.why_not_object(Owner(), comfy.sd.VAE),
    }


def case_repeated_calls() -> Any:
    """A latent upscaler of ComfyUI's, undisturbed and out of memory; and the device that it is left with."""
    host_nodes.NODE_CLASS_MAPPINGS.setdefault("HunyuanVideo15LatentUpscaleWithModel", object)
    config = {"in_channels": 8, "out_channels": 8, "hidden_channels": 32, "num_blocks": 1, "global_residual": False}
    torch.manual_seed(0)
    model = HunyuanVideo15SRModel("720p", config)
    model.load_sd({name: torch.randn(tensor.shape) / 16 for name, tensor in model.get_sd().items()})
    latent = torch.randn(1, 8, 1, 4, 4)
    expected = model.resample_latent(latent).cpu()
    touches = Repeating(Twins(Protection(on=True))).touches()
    for touch in touches:
        touch.apply()
    xpu_sim.current().set_faults([xpu_sim.Fault(operator="convolution", kind="out_of_resources")])
    answer = model.resample_latent(latent).cpu()
    xpu_sim.current().set_faults([])
    found = [torch.equal(answer, expected), str(model.patcher.load_device)]
    for touch in touches:
        touch.take_back()
    return found


def case_twins() -> Any:
    """The same twin for the same model; another after a change; none that keeps its original."""
    model = _model()
    twins = Twins(Protection(on=True))
    first = twins.of_model(model)
    found = {"same": twins.of_model(model) is first, "same weights": first.model is model.model}
    model.model_options["transformer_options"]["patches"] = {"attn1_patch": [lambda *rest: rest]}
    found["changed"] = twins.of_model(model) is not first
    patched = model.clone()
    patched.add_patches({}, 1.0)
    found["clone"] = twins.of_model(patched).patches_uuid == patched.patches_uuid
    kept = [weakref.ref(entry) for entry in (model, first, model.model)]
    del model, first, patched
    found["gone"] = [reference() is None for reference in kept]
    return found
