"""A custom node pack for the host tests only: writes any result as floats, and makes inputs no user should give."""

from __future__ import annotations

import os

import folder_paths
import torch
from safetensors.torch import save_file


class TestDump:
    """Writes the tensor in anything that holds one to `<output>/<name>.safetensors`."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "dump"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"anything": ("*", {}), "name": ("STRING", {"default": "dump"})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def dump(self, anything, name):
        path = os.path.join(folder_paths.get_output_directory(), f"{name}.safetensors")
        save_file({"value": self.tensor(anything).contiguous().cpu()}, path)
        return {"ui": {"path": [path]}}

    def tensor(self, value):
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, dict):
            return value["samples"]
        if isinstance(value, list):  # a conditioning
            return value[0][0]
        return value["image_embeds"]


class TestLatent:
    """An empty latent of any size, zero included."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {}), "height": ("INT", {})}, "optional": {"value": ("FLOAT", {})}}

    def make(self, width, height, value=0.0):
        samples = torch.full((1, 1, 1, 1), float(value)).expand(1, 4, height, width)  # of no memory, whatever its size
        return ({"samples": samples},)


class TestChoice:
    """Any text for a combo box, through a link."""

    RETURN_TYPES = ("COMBO",)
    FUNCTION = "choose"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}

    def choose(self, text):
        return (text,)


class TestConditioning:
    """Random conditioning, for models whose text encoder is too large to generate."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"tokens": ("INT", {}), "width": ("INT", {}), "seed": ("INT", {})}}

    def make(self, tokens, width, seed):
        return ([[torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed)), {}]],)


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (TestDump, TestLatent, TestChoice, TestConditioning)}
