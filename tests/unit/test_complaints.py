"""What ComfyUI only logs about missing weights is read from its log, without what files may leave out."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from xpu_utils.host.loading.complaints import explained, forgive_decoder, required_weights
from xpu_utils.weights.check import CheckpointError

LAYER = "text_model.encoder.layers.3.mlp.fc1"


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        (f"clip missing: ['{LAYER}.weight', '{LAYER}.bias']", [f"{LAYER}.weight", f"{LAYER}.bias"]),
        ("clip missing: ['clip_l.logit_scale', 'clip_l.transformer.text_projection.weight']", []),
        ("missing clip vision: ['vision_model.encoder.layers.5.layer_norm1.bias', 'vision_model.position_ids']", 1),
        ("unet missing: ['time_embed.2.weight', 'scale_weight']", ["time_embed.2.weight"]),
        ("missing controlnet keys: ['middle_block.0.bias']", ["middle_block.0.bias"]),
        ("t2i missing ['body.0.bias']", ["body.0.bias"]),
        ("Missing VAE keys ['encoder.conv_in.weight', 'quant_conv.bias', 'decoder.conv_in.weight']", 1),
        ("unet unexpected: ['time_embed.2.weight']", []),
        ("clip missing: nothing", []),
    ],
)
def test_required_weights_are_read_from_a_line(line: str, missing: list[str] | int) -> None:
    found = required_weights(line)
    assert (len(found) if isinstance(missing, int) else found) == missing


class Coder(torch.nn.Module):
    """A VAE with the parts that are named, of two layers each."""

    def __init__(self, *parts: str) -> None:
        super().__init__()
        for part in parts:
            self.add_module(part, torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ("parts", "lacking", "forgiven"),
    [
        (("encoder", "decoder"), ("decoder.0", "decoder.1"), True),
        (("encoder", "previewer"), ("previewer.0", "previewer.1"), True),
        (("encoder", "decoder", "post_quant_conv"), ("decoder.0", "decoder.1"), True),
        (("encoder", "decoder"), ("decoder.1",), False),
        (("encoder", "decoder"), ("encoder.0", "encoder.1"), False),
        (("decoder",), ("decoder.0", "decoder.1"), False),
    ],
)
def test_a_file_may_lack_a_vae_s_whole_decoder(parts: Sequence[str], lacking: Sequence[str], forgiven: bool) -> None:
    missing = [f"{layer}.{end}" for layer in lacking for end in ("weight", "bias")]
    forgive_decoder(Coder(*parts), missing, "a.safetensors")
    assert len(missing) == (0 if forgiven else 2 * len(lacking))


def look_up(table: dict[str, int] | list[int]) -> int:
    return table["model.weight" if isinstance(table, dict) else 0]  # type: ignore[call-overload,no-any-return]


def of_module(name: str) -> Callable[..., int]:
    """`look_up` as if a module of that name held it."""
    return types.FunctionType(look_up.__code__, {"__name__": name, "isinstance": isinstance, "dict": dict})


@pytest.mark.parametrize("table", [{}, []])
def test_parts_that_detection_does_not_find_are_the_file_s_fault(table: dict[str, int] | list[int]) -> None:
    look_in_file, said = of_module("comfy.model_detection"), r"a.sft lacks parts that tell its kind \(.*\): download"
    with pytest.raises(CheckpointError, match=said), explained(Path("a.sft")):
        look_in_file(table)


@pytest.mark.parametrize("module", ["custom_nodes.another_pack", "xpu_nodes.ours", "comfyui_another.pack"])
def test_what_other_code_does_not_find_is_not(module: str) -> None:
    look_elsewhere = of_module(module)
    with pytest.raises(KeyError, match=r"model\.weight"), explained(Path("a.sft")):
        look_elsewhere({})


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("ERROR: Could not detect model type of: a.safetensors"),
        RuntimeError("Error(s) in loading state_dict for UNetModel"),
        CheckpointError("a.safetensors lacks weights (a.weight): it is incomplete, download it again."),
    ],
)
def test_a_part_of_a_model_is_told_as_one_where_it_cannot_be_used_alone(error: Exception) -> None:
    part, whole = Path("wan-00001-of-00003.safetensors"), Path("wan-00001-of-00001.safetensors")
    with (
        pytest.raises(CheckpointError, match="is part 1 of the 3 that a model was split into") as caught,
        explained(part),
    ):
        raise error
    assert caught.value.__cause__ is error
    with pytest.raises(CheckpointError, match=r"holds no model|unexpected shapes|lacks weights"), explained(whole):
        raise error


def test_an_error_that_is_not_the_file_s_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), explained(Path("a-00001-of-00002.sft")):
        raise RuntimeError("size mismatch")
