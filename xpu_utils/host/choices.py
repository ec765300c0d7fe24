"""What this ComfyUI offers in the combo boxes of our nodes, as its own nodes do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name

from ..choice import check_choice
from ..weights.check import CheckpointError

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS
WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")


def model_files(folder: str) -> list[str]:
    """The model files in one of ComfyUI's model folders."""
    return list(folder_paths.get_filename_list(folder))


def model_path(folder: str, name: str) -> Path:
    """The path of a listed model file.

    Raises:
        CheckpointError: the folder lists no such file; names that leave the folder are never listed.
    """
    if name not in model_files(folder):
        raise CheckpointError(f"{name} is not in the {folder} folder: put it there or choose another file.")
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def clip_types() -> list[str]:
    """The families of text encoders that the stock loaders of one file and of two offer."""
    return list(dict.fromkeys([*_stock("CLIPLoader", "type"), *_stock("DualCLIPLoader", "type")]))


def vae_names() -> list[str]:
    """What the stock VAE loader offers: files, small decoders made of two files, and decoders that need none."""
    return _stock("VAELoader", "vae_name")


def _stock(node_class: str, name: str) -> list[str]:
    """The options of a stock node's combo box: they come first, or by name after their kind, as V3 nodes have them."""
    node: Any = host_nodes.NODE_CLASS_MAPPINGS[node_class]
    first, *rest = node.INPUT_TYPES()["required"][name]
    return list(rest[0]["options"] if isinstance(first, str) else first)


OFFERED: Mapping[str, Callable[[], Sequence[str]]] = {
    "sampler_name": lambda: SAMPLERS,
    "scheduler": lambda: SCHEDULERS,
    "type": clip_types,
    "weight_dtype": lambda: WEIGHT_DTYPES,
}
"""What is offered, by the input's name; a folder's files are checked when they are loaded."""


def check_input(name: str, value: object) -> None:
    """Refuses what an input does not offer.

    Raises:
        ValueError: it does not, in a sentence that says what it does.
    """
    check_choice(name, value, OFFERED[name]())
