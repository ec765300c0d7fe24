"""What stands in front of ComfyUI's functions, and what is left alone; see worker.py."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import comfy.utils
import nodes as host_nodes
import torch
from comfy.ldm.hunyuan_video.upsampler import HunyuanVideo15SRModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from tests import xpu_sim
from tests.harness.models import MODELS
from xpu_utils.host import hooks
from xpu_utils.host.protecting import obstacles
from xpu_utils.host.protecting.repeating import WRAPPED, Repeating
from xpu_utils.host.protecting.settings import Protection
from xpu_utils.host.protecting.touches import Touch
from xpu_utils.host.protecting.twins import Twins
from xpu_utils.host.protecting.using import Using
from xpu_utils.host.recovery import takeover
from xpu_utils.recovery.faults import NotFiniteError, first_line
from xpu_utils.recovery.ladder import LadderExhaustedError

from . import other_packs
from .switched import UNET, failing, sampled, switched_on


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

    touch = Touch("touch", "for a test", [(Owner, function, lambda *_: work)])
    touch.apply()
    torch.manual_seed(1)
    try:
        return getattr(Owner(), function)(*arguments)
    except (RuntimeError, KeyError, model_management.InterruptProcessingException) as raised:
        return repr(raised)
    finally:
        touch.take_back("the test is over")


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


def case_names() -> Any:
    """Of what this ComfyUI or a newer one has."""
    with switched_on() as touches:
        return sorted({*(touch.name for touch in touches), *(f"protected {what}" for what in WRAPPED)})


def case_who_is_in_front() -> Any:
    """Ours is put around theirs, then theirs around ours."""
    found: dict[str, Any] = {}
    touch = Touch("touch", "for a test", [(Owner, "named", lambda stock, cls: lambda: f"ours around {stock(cls)}")])
    stock = vars(Owner)["named"]
    touch.apply()
    touch.apply()
    found["ours"] = Owner.named()
    Owner.named = stock  # type: ignore[method-assign]
    touch.apply()
    found["put back by them"] = Owner.named()
    ours = vars(Owner)["named"]

    def named(cls: type) -> str:
        return f"theirs around {ours.__func__(cls)}"

    Owner.named = classmethod(named)  # type: ignore[assignment,method-assign]
    found["theirs in front"] = Owner.named()
    touch.apply()
    found["hook"] = str(next(hook for hook in hooks.hooks() if hook.name == "touch"))
    touch.take_back("the test is over")
    found["taken back behind theirs"] = Owner.named()
    Owner.named = ours  # type: ignore[method-assign]
    touch.take_back("the test is over")
    found["taken back"] = vars(Owner)["named"] is stock
    missing = Touch("missing", "for a test", [(Owner, "no such function", lambda *_: None)])
    missing.apply()
    found["missing"] = str(next(hook for hook in hooks.hooks() if hook.name == "missing"))
    return found


def case_what_is_left_alone() -> Any:
    def changed(change: Callable[[Any], object]) -> str:
        model = comfy.sd.load_diffusion_model(UNET).clone()
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


def case_twins() -> Any:
    """The same twin for the same model; another after a change; none that keeps its original."""
    model = comfy.sd.load_diffusion_model(UNET)
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


class Detector:
    """A node of ComfyUI's that calls a model's layers by itself, on the device that ComfyUI names."""

    @classmethod
    def execute(cls, model: Any, image: torch.Tensor) -> torch.Tensor:
        model_management.load_model_gpu(model)
        layer = model.model.diffusion_model.input_blocks[0][0]
        return layer(image.to(model_management.get_torch_device(), model.model_dtype())).cpu()


def case_nodes_that_call_a_model_themselves() -> Any:
    """Out of memory, also after all was freed: it goes on on the other device, and comes back."""
    host_nodes.NODE_CLASS_MAPPINGS["RTDETR_detect"] = Detector
    model, image = comfy.sd.load_diffusion_model(UNET), torch.ones(1, 4, 8, 8)
    expected = Detector.execute(model, image)
    with switched_on(Repeating), failing(operator="convolution", kind="out_of_resources", times=2):
        answer = Detector.execute(model, image=image)
        (fired,) = xpu_sim.current().statistics().faults_fired
    return [torch.equal(answer, expected), str(model.load_device), fired]


def case_generated_text() -> Any:
    """A text encoder that writes text, as on newer ComfyUIs."""

    def generate(clip: Any, tokens: Any, **how: Any) -> Any:
        clip.load_model()
        return clip.cond_stage_model.encode_token_weights(tokens)[0].argmax(-1).tolist()

    comfy.sd.CLIP.generate = generate
    clip = comfy.sd.load_clip([str(MODELS / "text_encoders" / "clip-l.safetensors")])
    tokens = clip.tokenize("a lighthouse")
    expected = clip.generate(tokens, seed=1)
    with switched_on(), failing(operator="addmm", kind="out_of_resources"):
        return clip.generate(tokens, seed=1) == expected


def case_models_of_other_packs() -> Any:
    """By loader: whether what samples with the switch on is stock's, also where memory runs out; and who served it."""
    found: dict[str, Any] = {}
    for name, load in other_packs.LOADERS.items():
        expected = sampled(load(UNET))
        with switched_on():
            model = load(UNET)
            found[name] = {"equal": torch.equal(sampled(model), expected)}
            with failing(operator="convolution", kind="out_of_resources", nth=5):
                try:
                    found[name]["survived"] = torch.equal(sampled(model), expected)
                except RuntimeError as error:
                    found[name]["lost by"] = first_line(error)
            found[name]["reason"] = obstacles.why_not_model(model)
    return found


def _drawn() -> torch.Tensor:
    """A picture by core's functions: a model's file to latent to picture."""
    latent = sampled(comfy.sd.load_diffusion_model(UNET))
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(MODELS / "vae" / "vae-sd15.safetensors")))
    return vae.decode(latent).cpu()


def case_packs_that_touch_what_we_touch() -> Any:
    """A pack that does so before the switch is on, and after: whether the picture is stock's, and what is listed."""
    expected = _drawn()
    found = {}
    for first, second in ((other_packs.meddling, switched_on), (switched_on, other_packs.meddling)):
        with first() as one, second() as other:
            called, touches = (one, other) if first is other_packs.meddling else (other, one)
            equal = torch.equal(_drawn(), expected)
            for touch in touches:  # as when the next prompt begins
                touch.apply()
            reasons = {hook.name: hook.reason for hook in hooks.hooks()}
        touched = ("protected loading", "protected sampling", "protected VAEs")
        found[first.__name__] = [equal, called, [reasons[name] for name in touched]]
    return found


def _upscaler() -> Any:
    """A latent upscaler of ComfyUI's, which no node of ours places."""
    host_nodes.NODE_CLASS_MAPPINGS.setdefault("HunyuanVideo15LatentUpscaleWithModel", object)
    config = {"in_channels": 8, "out_channels": 8, "hidden_channels": 32, "num_blocks": 1, "global_residual": False}
    torch.manual_seed(0)
    model = HunyuanVideo15SRModel("720p", config)
    model.load_sd({name: torch.randn(tensor.shape) / 16 for name, tensor in model.get_sd().items()})
    return model


def case_repeated_calls() -> Any:
    """A latent upscaler, undisturbed and out of memory; and the device that it is left with."""
    model, latent = _upscaler(), torch.ones(1, 8, 1, 4, 4)
    expected = model.resample_latent(latent).cpu()
    with switched_on(Repeating), failing(operator="convolution", kind="out_of_resources"):
        answer = model.resample_latent(latent).cpu()
    return [torch.equal(answer, expected), str(model.patcher.load_device)]


def case_packed_weights_on_lost_devices() -> list[bool]:
    """GGUF-like, with a LoRA: the device is lost, and later the next one; each time whether the latent is stock's."""
    lora = comfy.utils.load_torch_file(str(MODELS / "loras" / "lora-sd15-tiny.safetensors"))

    def load() -> Any:
        return comfy.sd.load_lora_for_models(other_packs.load_packed(UNET), None, lora, 1.0, 0.0)[0]

    expected = sampled(load())
    found = [not torch.equal(sampled(other_packs.load_packed(UNET)), expected)]
    with switched_on():
        model = load()
        for _ in range(2):
            with failing(operator="convolution", kind="device_lost", nth=5):
                found.append(torch.equal(sampled(model), expected))
            found.append(torch.equal(sampled(model), expected))
    return found


def case_repeated_calls_on_lost_devices() -> Any:
    """Two devices one after the other, and the call after each; then of a model that is made afterwards."""
    model, latent = _upscaler(), torch.ones(1, 8, 1, 4, 4)
    expected = model.resample_latent(latent).cpu()
    found = []
    with switched_on(Repeating):
        for _ in range(2):
            with failing(operator="convolution", kind="device_lost"):
                found.append(torch.equal(model.resample_latent(latent).cpu(), expected))
            found.append(torch.equal(model.resample_latent(latent).cpu(), expected))
        found.append(torch.equal(_upscaler().resample_latent(latent).cpu(), expected))
    return found


def case_the_cpu_takes_over_if_it_may() -> Any:
    """One device is lost after the other, until none is left."""
    model = comfy.sd.load_diffusion_model(UNET)

    def stopped(fault: str = "") -> str:
        with failing(operator="addmm", kind=fault, nth=20) if fault else contextlib.nullcontext():
            try:
                sampled(model)
            except LadderExhaustedError as error:
                return str(error)
        return ""

    with switched_on(Using, precision="fp32"):
        expected = sampled(model)
        takeover.choose(takeover.ASK)
        found: dict[str, Any] = {"asked": [stopped("device_lost"), stopped("device_lost"), stopped()]}
        takeover.queued()
        found["agreed"] = float((sampled(model) - expected).abs().max() / expected.std())
    takeover.choose(takeover.NO)
    with switched_on(Using):
        found["no"] = stopped()
        takeover.choose(takeover.YES)
        found["yes"] = stopped()
    return found
