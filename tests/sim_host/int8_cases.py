"""MODELs held in int8: loaded, placed, patched, streamed and lost, on the CPU and simulated devices; see worker.py."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.controlnet
import comfy.hooks
import comfy.sd
import comfy.utils
import folder_paths
import nodes as host_nodes
import torch

from tests import xpu_sim
from tests.harness.models import MODELS
from tests.training.checkpoint import NAME
from tests.training.score import psnr_db
from tests.training.subjects import SIDE
from xpu_utils import int8
from xpu_utils.host.cpu_engine import LINEARS
from xpu_utils.host.int8 import apply_control_hook, apply_saving_hook, in_int8
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loaders
from xpu_utils.host.placing.placed import placement_of
from xpu_utils.host.protecting.settings import Protection
from xpu_utils.host.protecting.twins import Twins
from xpu_utils.host.running.place import place
from xpu_utils.host.running.sampling import place_model
from xpu_utils.weights import int8_layers
from xpu_utils.weights.int8_layers import Int8Layer, Int8Use, hold

UNET, LORA = "sd15-tiny-unet.safetensors", "lora-sd15-tiny.safetensors"

apply_control_hook()
apply_saving_hook()
for folder in ("checkpoints", "diffusion_models", "vae", "loras"):
    folder_paths.add_model_folder_path(folder, str(MODELS / folder))


def _loaded(device: str, precision: str, resident: str = "auto") -> Any:
    return loaders.load_diffusion_model(UNET, "default", placement_for(device, precision, resident))[0]


def _sampled(model: Any, *told: dict[str, Any]) -> torch.Tensor:
    """A latent, by a positive and a negative that are told as much beside the prompt."""
    generator = torch.Generator().manual_seed(5)
    conds = [[[torch.randn(1, 77, 768, generator=generator), given]] for given in told or ({}, {})]
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    (result,) = host_nodes.common_ksampler(model, 3, 2, 4.0, "euler", "normal", *conds, latent)
    return result["samples"]


def _patched(model: Any) -> Any:
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", LORA))
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def _error(latent: torch.Tensor, reference: torch.Tensor) -> float:
    return float((latent - reference).norm() / reference.norm())


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.model.state_dict().items()}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _told(model: Any) -> list[str]:
    placement = placement_of(model)
    assert placement is not None
    return [placement.device.id, placement.precision, placement.reason]


def case_a_loaded_model() -> dict[str, Any]:
    """Its size, what it answers, and which layers are in int8, by device."""
    reference = _sampled(_loaded("cpu", "fp32"))
    found: dict[str, Any] = {}
    for device in ("cpu", "xpu:0"):
        floats, model = _loaded(device, "bf16"), _loaded(device, "int8")
        layers = [name for name, module in model.model.named_modules() if isinstance(module, Int8Layer)]
        linears = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
        held = sum(module.weight.nbytes for module in linears if isinstance(module, Int8Layer))
        found[device] = {
            "told": _told(model),
            "layers": len(layers),
            "sensitive": [name for name in layers if "emb" in name],
            "size": model.model_size() / floats.model_size(),
            "held": held / sum(2 * m.in_features * m.out_features for m in linears if isinstance(m, Int8Layer)),
            "error": _error(_sampled(model), reference),
        }
    return found


def case_a_picture() -> float:
    """How close one of the trained checkpoint is to that in fp32, in dB, with every layer in int8 and the rest in fp32.

    Of every fourth subject it is the one that came out worst (29.8 dB) before channels were mixed.
    """
    (model, clip, vae), _ = loaders.load_checkpoint(f"{NAME}.safetensors", placement_for("cpu", "fp32"))

    def drawn() -> torch.Tensor:
        told, nothing = (host_nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("pig face", ""))
        (latent,) = host_nodes.EmptyLatentImage().generate(SIDE, SIDE)
        (result,) = host_nodes.common_ksampler(model, 0, 8, 2.0, "euler", "simple", told, nothing, latent)
        return vae.decode(result["samples"]).clamp(0, 1)

    reference = drawn()
    model.unpatch_model(torch.device("cpu"))
    hold(model.model.diffusion_model, LINEARS, Int8Use(lambda *_: True, lambda: None, columns=True))
    return psnr_db(drawn(), reference)


def case_streamed() -> bool:
    """Whether a model whose weights stream answers what a resident one does, to the bit."""
    resident, streamed = (_sampled(_loaded("xpu:0", "int8", share)) for share in ("all", "10%"))
    return torch.equal(resident, streamed)


def case_a_lora() -> dict[str, Any]:
    """How far a LoRA changes the latent, and how far its latent is from that of floats, by what comes first."""
    plain = _sampled(_loaded("xpu:0", "fp32"))
    patched = _sampled(_patched(_loaded("xpu:0", "fp32")))
    found: dict[str, Any] = {"change": _error(patched, plain)}
    model = _loaded("xpu:0", "int8")
    before = _weights(model)
    found["after loading"] = _error(_sampled(_patched(model)), patched)
    found["without it again"] = _error(_sampled(model), plain)
    model.unpatch_model(torch.device("cpu"))
    found["as before"] = _same(_weights(model), before)
    found["streamed"] = _error(_sampled(_patched(_loaded("xpu:0", "int8", "10%"))), patched)
    placed, _ = place_model(_patched(_loaded("xpu:0", "fp32")), placement_for("xpu:0", "int8"))
    found["before placing"] = _error(_sampled(placed), patched)
    return found


def case_a_placed_model() -> dict[str, Any]:
    """Of a model that another loader made: what it is while it works in int8, and what is left of that."""
    stock = comfy.sd.load_diffusion_model(folder_paths.get_full_path_or_raise("diffusion_models", UNET))
    before, reference = _weights(stock), _sampled(_loaded("xpu:0", "fp32"))
    floats, _ = place_model(stock, placement_for("xpu:0", "bf16"))
    expected = _sampled(floats)
    placed, _ = place_model(stock, placement_for("xpu:0", "int8"))
    layer = next(module for name, module in stock.model.named_modules() if name.endswith("attn1.to_q"))
    held: list[bool] = []
    watching = layer.register_forward_pre_hook(lambda module, _: held.append(isinstance(module, Int8Layer)))
    error = _error(_sampled(placed), reference)
    watching.remove()
    placed.unpatch_model(torch.device("cpu"))
    return {
        "told": _told(placed),
        "held": all(held) and bool(held),
        "error": error,
        "as before": _same(_weights(stock), before) and not in_int8(stock),
        "the other": torch.equal(_sampled(floats), expected),
    }


def case_memory_that_runs_out() -> dict[str, Any]:
    """Of a stock model that is placed, where memory runs out once while its layers are packed."""
    stock = comfy.sd.load_diffusion_model(folder_paths.get_full_path_or_raise("diffusion_models", UNET))
    before, layers = _weights(stock), [m for m in stock.model.modules() if isinstance(m, torch.nn.Linear)]
    placed, _ = place_model(stock, placement_for("xpu:0", "int8"))
    packed, held = itertools.count(), set[int]()

    def pack(*arguments: Any, **keywords: Any) -> torch.Tensor:
        if next(packed) == 40:
            raise MemoryError
        return int8.pack(*arguments, **keywords)

    watching = layers[-1].register_forward_pre_hook(lambda *_: held.add(sum(isinstance(m, Int8Layer) for m in layers)))
    with mock.patch.object(int8_layers, "pack", pack):
        _sampled(placed)
    watching.remove()
    placed.unpatch_model(torch.device("cpu"))
    return {"held": sorted(held), "packed": next(packed), "as before": _same(_weights(stock), before)}


def case_floats_of_the_cpu() -> dict[str, Any]:
    """How far a model whose floats work on the CPU is from fp32 in int8, there and on a card, and what it is then."""
    found: dict[str, Any] = {}
    for way, change, precision in (("plain", lambda model: model, "fp32"), ("lora", _patched, "auto")):
        reference = _sampled(change(_loaded("cpu", "fp32")))
        floats = change(_loaded("cpu", precision))
        expected = _sampled(floats)
        placed = {where: place_model(floats, placement_for(where, "int8"))[0] for where in ("cpu", "xpu:0")}
        found[way] = {
            "told": [_told(model) for model in placed.values()],
            "errors": [_error(_sampled(model), reference) for model in placed.values()],
            "floats again": torch.equal(_sampled(floats), expected),
        }
    stock = comfy.sd.load_diffusion_model(folder_paths.get_full_path_or_raise("diffusion_models", UNET))
    expected = _sampled(place_model(stock, placement_for("cpu", "fp32"))[0])
    _sampled(place_model(stock, placement_for("cpu", "int8"))[0])
    found["fp32 again"] = torch.equal(_sampled(place_model(stock, placement_for("cpu", "fp32"))[0]), expected)
    return found


def case_hooks() -> dict[str, float]:
    """How far latents with a LoRA for the positive, and another for the negative, are from that of floats."""
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", LORA))

    def drawn(model: Any) -> torch.Tensor:
        return _sampled(model, *({"hooks": comfy.hooks.create_hook_lora(lora, much, 0.0)} for much in (1.0, 0.5)))

    reference = drawn(_loaded("xpu:0", "fp32"))
    stock = comfy.sd.load_diffusion_model(folder_paths.get_full_path_or_raise("diffusion_models", UNET))
    placed, _ = place_model(stock, placement_for("xpu:0", "int8"))
    return {
        "change": _error(reference, _sampled(_loaded("xpu:0", "fp32"))),
        "loaded": _error(drawn(_loaded("xpu:0", "int8")), reference),
        "placed": _error(drawn(placed), reference),
    }


def case_a_control_lora() -> dict[str, float]:
    """How far a Control-LoRA, which takes the model's own weights, changes the latent in floats and from it in int8."""
    state = comfy.utils.load_torch_file(str(MODELS / "controlnet" / "controlnet-sd15-tiny.safetensors"))
    own = ("input_hint_block.", "zero_convs.", "middle_block_out.")
    lora = {name: weight for name, weight in state.items() if name.startswith(own)}

    def drawn(model: Any) -> torch.Tensor:
        control = comfy.controlnet.ControlLora(lora)
        control.set_cond_hint(torch.ones(1, 3, 128, 128), 1.0, (0.0, 1.0))
        return _sampled(model, *({"control": control, "control_apply_to_uncond": False} for _ in range(2)))

    reference = drawn(_loaded("xpu:0", "fp32"))
    change = _error(reference, _sampled(_loaded("xpu:0", "fp32")))
    return {"change": change, "int8": _error(drawn(_loaded("xpu:0", "int8")), reference)}


def case_saved() -> list[Any]:
    """What is said where a model that was loaded in int8 is saved, and whether one that was placed in it can be."""
    stock = comfy.sd.load_diffusion_model(folder_paths.get_full_path_or_raise("diffusion_models", UNET))
    placed, _ = place_model(stock, placement_for("xpu:0", "int8"))
    _sampled(placed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "saved.safetensors"
        try:
            comfy.sd.save_checkpoint(str(file), _loaded("xpu:0", "int8"))
            said = ""
        except ValueError as refused:
            said = str(refused)
        written = file.exists()
        comfy.sd.save_checkpoint(str(file), placed)
        return [said, written, file.exists()]


def case_the_switch() -> dict[str, Any]:
    """What is said of a stock model and a stock VAE with the switch in int8, and how far the latent is from fp32's."""
    twins = Twins(Protection(on=True, device="xpu:0", precision="int8"))
    stock = comfy.sd.load_diffusion_model(folder_paths.get_full_path_or_raise("diffusion_models", UNET))
    model = twins.of_model(stock)
    error = _error(_sampled(model), _sampled(_loaded("xpu:0", "fp32")))
    vae, _ = loaders.load_vae("vae-sd15.safetensors", placement_for("xpu:0", "auto"))
    return {"model": _told(model), "error": error, "vae": _told(twins.of_vae(vae).patcher)}


def case_an_int8_model_in_bf16() -> list[Any]:
    """What is said of a model that was loaded in int8 and is placed in bf16."""
    placed, placement = place_model(_loaded("xpu:0", "int8"), placement_for("xpu:0", "bf16"))
    return [placement.precision, list(placement.notes), in_int8(placed)]


def case_other_kinds() -> list[str]:
    """What is said of a VAE."""
    vae, _ = loaders.load_vae("vae-sd15.safetensors", placement_for("xpu:0", "auto"))
    _, placement = place(vae, placement_for("xpu:0", "int8"))
    return [placement.precision, placement.reason]


def case_fp8_weights() -> list[str]:
    """What is said of weights that are quantised already."""
    placement = placement_for("cpu", "int8")
    return _told(loaders.load_diffusion_model(UNET, "fp8_e4m3fn", placement)[0])


def case_without_products() -> list[str]:
    """What is said on a device that has none; on another card, whose self-test is its own."""
    xpu_sim.current().add_fault("*_int_mm*", "error", device=1, times=None, message="not implemented for 'Char'")
    return _told(_loaded("xpu:1", "int8"))


def case_zz_lost() -> dict[str, Any]:
    """Last: the device is lost in the middle, and the run goes on elsewhere."""
    model = _loaded("xpu:0", "int8")
    expected, before = _sampled(model), _weights(model)
    xpu_sim.current().add_fault("convolution", "device_lost", nth=20, device=0)
    error = _error(_sampled(model), expected)
    model.unpatch_model(torch.device("cpu"))
    return {
        "error": error,
        "told": _told(model)[:2],
        "in int8": in_int8(model),
        "same": _same(_weights(model), before),
    }
