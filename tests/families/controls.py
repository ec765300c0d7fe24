"""Families of ControlNets, at a size that a CPU runs in a moment, each beside a tiny model of its family."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from . import images
from .family import SEED, Family, build, fill, marked, on_host, sampled
from .subject import Subject

HOST = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Controlled:
    """A MODEL and the CONTROL_NET that it is sampled with; none where its answer without one is asked for."""

    model: Any
    control: Any


@dataclasses.dataclass(frozen=True)
class Control:
    """One way in which `comfy.controlnet` makes control objects."""

    name: str
    kinds: tuple[str, ...]
    """Its class there, and the functions that load it."""
    family: Family
    """Of the model."""
    network: str
    """Its network's class."""
    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the control object."""
    newer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the network that older hosts do not know."""
    latent: str = ""
    """The format of latents that its hint is one of; empty where it is a picture."""


def subjects() -> Iterator[Subject]:
    """Those that the host knows."""
    known = kinds_of_the_host()
    for control in FAMILIES:
        if known.issuperset(control.kinds):
            work = functools.partial(controlled, control)
            yield Subject(control.name, functools.partial(load, control), work, "CONTROL_NET")


def load(control: Control) -> Controlled:
    """A model and its ControlNet with random weights, which compute on the CPU in fp32."""
    network = network_of(control)
    made = _MAKERS.get(control.kinds[0], _control)(control, network)
    hint = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(SEED))
    made.set_cond_hint(hint, 1.0, (0.0, 1.0), vae=_Coder(made.latent_format) if control.latent else None)
    return Controlled(on_host(build(control.family)), made)


def network_of(control: Control) -> Any:
    """Its network with random weights, on the host in fp32."""
    import comfy.ops

    told = {"dtype": torch.float32, "device": HOST, "operations": comfy.ops.disable_weight_init}
    kind: Any = pkgutil.resolve_name(control.network)
    if not control.network.startswith("comfy.t2i_adapter"):
        kind = functools.partial(kind, **told)
    with marked():
        try:
            network = kind(**control.arguments, **control.newer)
        except TypeError:
            network = kind(**control.arguments)
    return fill(network, SEED + 1).eval().requires_grad_(False)


def controlled(control: Control, thing: Controlled) -> torch.Tensor:
    """The latent that a model makes with a ControlNet, on the host."""
    from xpu_utils.host.inventory import runs_on
    from xpu_utils.host.placing.placed import placement_of

    told = {} if thing.control is None else {"control": thing.control, "control_apply_to_uncond": True}
    # Stock ComfyUI has Control-LoRAs on the process's device.
    stock = placement_of(thing.model) is None
    with runs_on(thing.model.load_device) if stock else contextlib.nullcontext():
        return sampled(control.family, thing.model, **told)


class _Coder:
    """Stands in for a VAE: a picture's blocks of 8 pixels become a latent of a format."""

    def __init__(self, latent_format: Any) -> None:
        self._channels, self._dimensions = latent_format.latent_channels, latent_format.latent_dimensions

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        picture = pixels[0] if pixels.ndim == 5 else pixels
        small = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 8).mean(1, keepdim=True)
        latent = small.repeat(1, self._channels, 1, 1)
        return latent[:, :, None] if self._dimensions == 3 else latent


def _control(control: Control, network: Any) -> Any:
    import comfy.controlnet

    options = dict(control.options)
    if control.latent:
        import comfy.latent_formats

        options |= {"latent_format": getattr(comfy.latent_formats, control.latent)(), "compression_ratio": 1}
    kind: Any = getattr(comfy.controlnet, control.kinds[0])
    made = kind(network, load_device=HOST, manual_cast_dtype=None, **options)
    made.control_model_wrapped.offload_device = HOST
    return made


def _lora(control: Control, network: Any) -> Any:
    """Its own layers whole, and a difference to the model's of some others."""
    import comfy.controlnet

    own = ("zero_convs.", "input_hint_block.", "middle_block_out.")
    weights = {name: weight for name, weight in network.state_dict().items() if name.startswith(own)}
    generator = torch.Generator().manual_seed(SEED)
    for layer in ("middle_block.0.in_layers.2", "time_embed.0"):
        rows, columns, *square = network.get_submodule(layer).weight.shape
        weights[f"{layer}.up"] = torch.randn((rows, 4), generator=generator) * 0.1
        weights[f"{layer}.down"] = torch.randn((4, columns, *square), generator=generator) * 0.1
    return comfy.controlnet.ControlLora({**weights, "lora_controlnet": torch.zeros(())})


def _adapter(control: Control, network: Any) -> Any:
    import comfy.controlnet

    options = {"compression_ratio": 8, "upscale_algorithm": "nearest-exact", **control.options}
    return comfy.controlnet.T2IAdapter(network, network.input_channels, **options, device=HOST)


_MAKERS = {"ControlLora": _lora, "T2IAdapter": _adapter}


def kinds_of_the_host() -> set[str]:
    """The classes of control objects, and the functions that load networks of a family."""
    import comfy.controlnet

    classes = [node for node in ast.parse(inspect.getsource(comfy.controlnet)).body if isinstance(node, ast.ClassDef)]
    controls = {node.name for node in classes if issubclass(getattr(comfy.controlnet, node.name), _base())}
    loading = {name for name in vars(comfy.controlnet) if name.startswith("load_") and callable(_named(name))}
    return (controls | loading) - {"ControlBase", "load_controlnet", "load_controlnet_state_dict"}


def _base() -> type:
    import comfy.controlnet

    return comfy.controlnet.ControlBase


def _named(name: str) -> Any:
    import comfy.controlnet

    return getattr(comfy.controlnet, name)


# fmt: off
BY_NAME = {family.name: family for family in images.FAMILIES}
CLDM = "comfy.cldm.cldm.ControlNet"
NOT_OF_CONTROLS = ("out_channels", "transformer_depth_output")
OF_UNET = {name: value for name, value in images.UNET.items() if name not in NOT_OF_CONTROLS}
OF_XL = {name: value for name, value in images.XL.items() if name not in NOT_OF_CONTROLS}
FOUR = {
    **images.UNET, "model_channels": 32, "num_res_blocks": [2, 2, 2, 2], "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
"""As many levels as adapters are made for."""
FLUX_EXTRA = {"extra_conds": ["y", "guidance"]}
SD3 = {name: value for name, value in images.SD3.items() if name != "depth"}
ADAPTER = "comfy.t2i_adapter.adapter."

FAMILIES = (
    Control("ControlNet-SD15", ("ControlNet",), BY_NAME["SD15"], CLDM, {**OF_UNET, "hint_channels": 3}),
    Control(
        "ControlNet-SDXL-union", ("ControlNet",), BY_NAME["SDXL"], CLDM,
        {**OF_XL, "hint_channels": 3, "union_controlnet_num_control_type": 6},
    ),
    Control("ControlNet-LoRA", ("ControlLora",), BY_NAME["SD15"], CLDM, {**OF_UNET, "hint_channels": 3}),
    Control(
        "ControlNet-T2I", ("T2IAdapter", "load_t2i_adapter"),
        dataclasses.replace(BY_NAME["SD15"], network=FOUR, latent=(1, 4, 16, 16)), ADAPTER + "Adapter",
        {
            "cin": 192, "channels": [32, 64, 128, 128], "nums_rb": 2, "ksize": 1, "sk": True, "use_conv": False,
            "xl": False,
        },
    ),
    Control(
        "ControlNet-T2I-light", ("T2IAdapter", "load_t2i_adapter"),
        dataclasses.replace(BY_NAME["SD15"], network=FOUR, latent=(1, 4, 16, 16)), ADAPTER + "Adapter_light",
        {"cin": 192, "channels": [32, 64, 128, 128], "nums_rb": 4},
    ),
    Control(
        "ControlNet-Cascade", ("T2IAdapter", "load_t2i_adapter"),
        dataclasses.replace(
            BY_NAME["Stable_Cascade_C"], network={**BY_NAME["Stable_Cascade_C"].network, "c_hidden": [128, 128]},
        ),
        "comfy.ldm.cascade.controlnet.ControlNet", {"c_in": 3, "c_proj": 128, "proj_blocks": [0, 2, 5]},
        {"compression_ratio": 32, "upscale_algorithm": "bilinear"},
    ),
    Control(
        "ControlNet-SD3", ("ControlNet", "load_controlnet_mmdit"), BY_NAME["SD3"], "comfy.cldm.mmdit.ControlNet",
        {**SD3, "depth": 2, "num_blocks": 2, "control_latent_channels": 16}, latent="SD3",
    ),
    Control(
        "ControlNet-SD35", ("ControlNetSD35", "load_controlnet_sd35"), BY_NAME["SD3"],
        "comfy.cldm.dit_embedder.ControlNetEmbedder",
        {
            "img_size": None, "patch_size": 2, "in_chans": 16, "num_layers": 2, "main_model_double": 2,
            "double_y_emb": False, "attention_head_dim": 64, "num_attention_heads": 2, "adm_in_channels": 64,
        },
        latent="SD3",
    ),
    Control(
        "ControlNet-Flux", ("ControlNet", "load_controlnet_flux_xlabs_mistoline"), BY_NAME["Flux"],
        "comfy.ldm.flux.controlnet.ControlNetFlux", images.FLUX, FLUX_EXTRA, images.NO_TEXT_IDS,
    ),
    Control(
        "ControlNet-Mistoline", ("ControlNet", "load_controlnet_flux_xlabs_mistoline"), BY_NAME["Flux"],
        "comfy.ldm.flux.controlnet.ControlNetFlux", {**images.FLUX, "mistoline": True}, FLUX_EXTRA, images.NO_TEXT_IDS,
    ),
    Control(
        "ControlNet-InstantX", ("ControlNet", "load_controlnet_flux_instantx"), BY_NAME["Flux"],
        "comfy.ldm.flux.controlnet.ControlNetFlux",
        {**images.FLUX, "latent_input": True, "control_latent_channels": 16}, FLUX_EXTRA, images.NO_TEXT_IDS, "Flux",
    ),
    Control(
        "ControlNet-Qwen", ("ControlNet", "load_controlnet_qwen_instantx"), BY_NAME["QwenImage"],
        "comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel", images.QWEN, {"extra_conds": []},
        latent="Wan21",
    ),
    Control(
        "ControlNet-Qwen-Fun", ("QwenFunControlNet", "load_controlnet_qwen_fun"), BY_NAME["QwenImage"],
        "comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel",
        {
            "control_in_features": 132, "inner_dim": 128, "num_attention_heads": 2, "attention_head_dim": 64,
            "num_control_blocks": 2, "main_model_double": 2, "injection_layers": (0, 1),
        },
        {"extra_conds": []}, latent="Wan21",
    ),
    Control(
        "ControlNet-HunyuanDiT", ("ControlNet", "load_controlnet_hunyuandit"),
        dataclasses.replace(BY_NAME["HunyuanDiT"], network={**images.HUNYUAN_DIT, "depth": 40}),  # it has 19 controls
        "comfy.ldm.hydit.controlnet.HunYuanControlNet",
        {
            "input_size": 8, "hidden_size": 128, "depth": 4, "num_heads": 4, "text_states_dim": 64,
            "text_states_dim_t5": 64, "text_len": 7, "text_len_t5": 9,
        },
        {
            "extra_conds": [
                *("text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5", "image_meta_size"),
                *("style", "cos_cis_img", "sin_cis_img"),
            ],
        },
        latent="SDXL",
    ),
)
