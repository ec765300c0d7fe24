"""The pack's nodes: thin V3 classes, a schema and a few lines of execute each."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import benchmark, doctor, loaders, memory, ollama, placing, sampling, upscaling, vae

MODULES = (loaders, placing, sampling, vae, upscaling, memory, ollama, doctor, benchmark)


class XPUExtension(ComfyExtension):
    async def on_load(self) -> None:
        await doctor.replace_device_info()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]
