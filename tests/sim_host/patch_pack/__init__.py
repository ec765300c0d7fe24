"""A custom node pack for the simulated server only: patches as common packs have them, which keep tensors of their own.

They keep them where ComfyUI computes by default, or where their first call was.
"""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.ldm.modules.attention import optimized_attention

BLOCKS = (("input", 1), ("input", 3), ("middle", 0), ("output", 0), ("output", 1), ("output", 2), ("output", 3))

_of_the_module = {}


class Patch:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        clone = model.clone()
        self.put_on(clone)
        return (clone,)


class PatchAttention(Patch):
    """Adds attention to tokens, as IP-Adapters do, made when they are first needed."""

    def put_on(self, model):
        device, kept = comfy.model_management.get_torch_device(), {}

        def attend(q, k, v, extra):
            width, heads = q.shape[-1], extra["n_heads"]
            if width not in kept:
                kept[width] = torch.randn(1, 4, width, generator=torch.Generator().manual_seed(width)).to(device)
            tokens = kept[width].to(q.dtype).repeat(q.shape[0], 1, 1)
            return optimized_attention(q, k, v, heads) + 0.5 * optimized_attention(q, tokens, tokens, heads)

        for block, number in BLOCKS:
            model.set_model_attn2_replace(attend, block, number)


class PatchBlock(Patch):
    """Weights the channels of a block, as inpainting packs do."""

    def put_on(self, model):
        mask = torch.linspace(0.9, 1.1, 320).to(comfy.model_management.get_torch_device())

        def weigh(h, options):
            return h * mask[: h.shape[1]].view(1, -1, 1, 1).to(h.dtype)

        model.set_model_input_block_patch(weigh)


class PatchCalls(Patch):
    """Goes on from the last call's answer, as step caches do; a run begins anew."""

    def __init__(self):
        self.last, self.time = None, None

    def put_on(self, model):
        model.set_model_unet_function_wrapper(self.call)

    def call(self, apply_model, args):
        time = float(args["timestep"][0])
        before = self.last if self.time is not None and time < self.time else None
        self.last, self.time = apply_model(args["input"], args["timestep"], **args["c"]), time
        return self.last if before is None else self.last + 0.05 * before


class PatchModel(Patch):
    """Puts a network of its own on a block, in a patcher that ComfyUI loads with the model, as DiffSynth and USO do."""

    def put_on(self, model):
        device, layer = comfy.model_management.get_torch_device(), torch.nn.Linear(320, 320)
        generator = torch.Generator().manual_seed(1)
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 50)
        patcher = comfy.model_patcher.ModelPatcher(layer, load_device=device, offload_device=torch.device("cpu"))
        model.set_model_input_block_patch(OfAModel(patcher, torch.linspace(0.9, 1.1, 320).to(device)))


class OfAModel:
    def __init__(self, patcher, picture):
        self.patcher, self.picture = patcher, picture

    def __call__(self, h, options):
        return h + self.patcher.model(h.movedim(1, -1) * self.picture.to(h.dtype)).movedim(-1, 1)

    def to(self, device_or_dtype):
        if isinstance(device_or_dtype, torch.device):
            self.picture = self.picture.to(device_or_dtype)
        return self

    def models(self):
        return [self.patcher]


class PatchUnreachable(Patch):
    """Keeps its tensor in a variable of its module."""

    def put_on(self, model):
        _of_the_module["mask"] = torch.ones(1, 320, 1, 1).to(comfy.model_management.get_torch_device())
        model.set_model_input_block_patch(weigh_by_the_modules)


def weigh_by_the_modules(h, options):
    return h * _of_the_module["mask"]


class LoadUnremembered:
    """Reads weights by itself, as GGUF's pack does: nothing says where the model came from."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        file = folder_paths.get_full_path_or_raise("diffusion_models", "sd15-tiny-unet.safetensors")
        return (comfy.sd.load_diffusion_model_state_dict(comfy.utils.load_torch_file(file)),)


NODES = (PatchAttention, PatchBlock, PatchCalls, PatchModel, PatchUnreachable, LoadUnremembered)
NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
