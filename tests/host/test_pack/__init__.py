"""A custom node pack for the host tests only: writes any result as floats, and makes inputs no user should give."""

from __future__ import annotations

import inspect
import os
import sys
import threading

import folder_paths
import torch
from comfy import model_management
from comfy_execution.graph_utils import GraphBuilder
from nodes import KSampler
from safetensors.torch import save_file


def say_thread(what):
    print(f"TEST: {what} in thread {threading.get_ident()}", flush=True)


unload_all_models = model_management.unload_all_models


def told():
    say_thread("unloading")
    unload_all_models()


model_management.unload_all_models = told


class TestPatches:
    """What stands in for a model's functions."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL", {})}}

    def look(self, model):
        kinds = {type(patch).__name__ for patch in model.object_patches.values()}
        return {"ui": {"patches": sorted(kinds), "patched": sorted(model.object_patches)}}


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
        say_thread("a node")
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


class TestSampling:
    """Samples by a KSampler that it makes as it runs."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return KSampler.INPUT_TYPES()

    def make(self, **inputs):
        graph = GraphBuilder()
        return {"result": (graph.node("KSampler", **inputs).out(0),), "expand": graph.finalize()}


class TestReplaced:
    """Names the functions and methods in ComfyUI's modules and classes whose code is the pack's."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def look(self, number):
        return {"ui": {"replaced": sorted(self.replaced())}}

    def replaced(self):
        theirs = ("comfy", "nodes", "execution", "latent_preview", "server")
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in theirs or "comfy_extras" in name:
                owners = [module, *(owner for owner in vars(module).values() if isinstance(owner, type))]
                for owner in owners:
                    yield from self.of_pack(owner)

    def of_pack(self, owner):
        for name, value in list(vars(owner).items()):
            code = getattr(getattr(value, "__func__", value), "__code__", None)
            if inspect.iscode(code) and "xpu_utils" in code.co_filename:
                yield f"{owner.__name__}.{name}"


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (TestDump, TestPatches, TestLatent, TestChoice, TestConditioning, TestSampling, TestReplaced)
}
