"""Stands in for ComfyUI-GGUF where a graph with its loader is only opened."""

from __future__ import annotations

from typing import Any


class UnetLoaderGGUF:
    """Offers what the real one offers."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_unet"
    CATEGORY = "bootleg"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"unet_name": (["none.gguf"],)}}


NODE_CLASS_MAPPINGS = {"UnetLoaderGGUF": UnetLoaderGGUF}
NODE_DISPLAY_NAME_MAPPINGS = {"UnetLoaderGGUF": "Unet Loader (GGUF)"}
