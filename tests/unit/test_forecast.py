"""What is said of a file before it is loaded: from its header alone, whatever its bytes are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.forecast import Size, forecast
from xpu_utils.machine.devices import find_devices
from xpu_utils.weights.contents import Content, Held, contents
from xpu_utils.weights.header import LoadError

from .recorded import b580, lunar_lake

GIB = 1 << 30
_BYTES = {"F8_E4M3": 1, "I8": 1, "U8": 1, "F6_E2M3": 1, "BF16": 2, "F16": 2, "F32": 4}
CPU = find_devices().devices[-1]


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A file with that header, whose bytes are a hole."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = _BYTES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (end, end + size)}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def checkpoint(path: Path, layers: int = 12) -> Path:
    """A diffusion model of `layers` GiB in fp8 with scales, a text encoder and a VAE."""
    block = "model.diffusion_model.blocks.{}.linear.{}"
    weights = {block.format(index, "weight"): ("F8_E4M3", (1 << 15, 1 << 15)) for index in range(layers)}
    scales: dict[str, tuple[str, tuple[int, ...]]] = {
        block.format(index, "weight_scale"): ("F32", ()) for index in range(layers)
    }
    others = {"first_stage_model.decoder.weight": ("F32", (1024, 1024)), "cond_stage_model.a.weight": ("F16", (8, 8))}
    return write(path, {**weights, **scales, **others})


def test_a_checkpoint_is_told_by_its_header(tmp_path: Path) -> None:
    parts = contents(checkpoint(tmp_path / "model.safetensors"))
    assert [part.content for part in parts] == [Content.MODEL, Content.VAE, Content.TEXT_ENCODER]
    assert parts[0].format_bytes == {"scaled fp8_e4m3": 12 * GIB + 12 * 4}
    assert parts[0].largest_layer_bytes == GIB + 4


@pytest.mark.parametrize(
    ("name", "beside", "expected"),
    [
        (("U8", (64, 32)), {"weight_scale": ("F8_E4M3", (64, 4)), "weight_scale_2": ("F32", ())}, "nvfp4"),
        (("F8_E4M3", (64, 64)), {"weight_scale": ("U8", (64, 2))}, "mxfp8"),
        (("F8_E4M3", (64, 64)), {}, "fp8_e4m3"),
        (("I8", (64, 64)), {"weight_scale": ("F32", (64, 1))}, "int8"),
        (("I8", (64, 32)), {"weight_s_rel": ("F8_E4M3", (64, 4))}, "w4a8"),
        (("BF16", (64, 64)), {"bias": ("F32", (64,))}, "bf16"),
        (("F6_E2M3", (64, 64)), {}, "F6_E2M3, which is not known here"),
    ],
)
def test_a_format_is_told_by_what_lies_beside_a_weight(
    name: tuple[str, tuple[int, ...]], beside: dict[str, tuple[str, tuple[int, ...]]], expected: str, tmp_path: Path
) -> None:
    layer = {"a.weight": name, **{f"a.{end}": told for end, told in beside.items()}}
    (part,) = contents(write(tmp_path / "model.safetensors", layer))
    assert list(part.format_bytes) == [expected]


def test_what_will_happen_depends_on_what_is_free(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "model.safetensors")
    assert forecast(file, b580(), 20 * GIB).outcome == "all of it stays there"
    assert forecast(file, b580(), 9 * GIB).outcome == "48% stays there, the rest streams"
    assert forecast(file, b580(), 20 * GIB, resident="10%").outcome == "10% stays there, the rest streams"
    assert forecast(file, b580(), 9 * GIB, resident="all").outcome.startswith("more than is free")
    assert forecast(file, b580(), 2 * GIB).outcome.startswith("too little even to stream")
    assert forecast(file, lunar_lake(), 9 * GIB).outcome.startswith("more than is free")
    assert forecast(file, CPU, 20 * GIB).outcome == "runs where its weights are"
    assert "12.00 GiB in scaled fp8_e4m3" in str(forecast(file, b580(), 9 * GIB))


@pytest.mark.parametrize(
    ("held", "in_blocks", "beside", "words"),
    [
        (None, 4, 4, "(as stored, "),
        (Held(torch.float16), 2, 2, "(in fp16, "),
        (Held(torch.float8_e4m3fn, in_int8=True), 1, 1, "(in float8_e4m3fn, "),
        (Held(torch.float32, in_int8=True), 1, 4, "(in int8 and fp32, "),
    ],
)
def test_weights_are_counted_as_the_device_will_hold_them(
    held: Held | None, in_blocks: int, beside: int, words: str, tmp_path: Path
) -> None:
    """By bytes a number; what has scales stays as it is."""
    layers: dict[str, tuple[str, tuple[int, ...]]] = {
        f"blocks.{index}.linear.weight": ("F32", (1024, 1024)) for index in range(16)
    }
    scaled: dict[str, tuple[str, tuple[int, ...]]] = {
        "blocks.0.scaled.weight": ("F8_E4M3", (1024, 1024)),
        "blocks.0.scaled.weight_scale": ("F32", ()),
    }
    file = write(tmp_path / "model.safetensors", {**layers, **scaled, "img_emb.weight": ("F32", (1024, 1024))})
    (part,) = contents(file, held)
    assert part.held_bytes == (16 * in_blocks + beside + 1 << 20) + 4
    assert part.largest_layer_bytes == max(beside << 20, (1 << 20) + 4)
    assert words in str(forecast(file, b580(), GIB, held=held))


F16 = ("F16", (64, 64))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.lora.down.weight", "a.lora.up.weight"], Content.LORA),
        (["a.lora_A.default.weight", "a.lora_B.default.weight", "a.alpha"], Content.LORA),
        (["lycoris_a.lokr_w1", "lycoris_a.lokr_w2", "lycoris_a.alpha"], Content.LORA),
        (["diffusion_model.a.diff", "diffusion_model.a.diff_b"], Content.LORA),
        (["lora_unet_a.lora_up.weight", "lora_unet_a.lora_down.weight", "lora_unet_a.alpha"], Content.LORA),
        (["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight", "quant_conv.weight"], Content.VAE),
        (["decoder.middle.0.residual.0.gamma", "conv1.weight"], Content.VAE),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], Content.TEXT_ENCODER),
        (["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"], Content.TEXT_ENCODER),
        (["model.layers.0.mlp.up_proj.weight", "model.norm.weight"], Content.TEXT_ENCODER),
        (["controlnet_down_blocks.0.weight", "down_blocks.0.a.weight", "conv_in.weight"], Content.CONTROLNET),
        (["double_blocks.0.img_attn.qkv.weight", "img_in.weight", "txt_in.weight"], Content.MODEL),
        (["input_blocks.1.0.in_layers.0.weight", "middle_block.1.norm.weight", "out.2.weight"], Content.MODEL),
        (["layers.0.residual_group.blocks.0.attn.qkv.weight", "conv_first.weight"], Content.WHOLE),
        (["a.weight"], Content.WHOLE),
    ],
)
def test_a_file_of_one_model_is_told_by_its_names(names: list[str], expected: Content, tmp_path: Path) -> None:
    file = write(tmp_path / "model.safetensors", dict.fromkeys(names, F16))
    assert [part.content for part in contents(file)] == [expected]
    assert ("streamed" in str(forecast(file, b580(), GIB))) == (expected is Content.MODEL)
    assert ("needs" in str(forecast(file, b580(), GIB))) == (expected is not Content.LORA)


@given(free_gib=st.floats(0, 64), layers=st.integers(1, 8))
def test_less_memory_never_keeps_more_there(
    free_gib: float, layers: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = checkpoint(tmp_path_factory.getbasetemp() / f"{layers}.safetensors", layers)
    less, more = (forecast(file, b580(), int(times * free_gib * GIB)) for times in (1, 2))
    assert 0 <= less.stays_share <= more.stays_share <= 1
    assert less.streamed_bytes <= less.resident_bytes or layers < 2


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (Size.of("1024x768"), "1024x768"),
        (Size.of("832x480x81"), "832x480, 81 frames"),
        (Size(832, 480, 1, batch=4), "832x480, one frame, 4 at a time"),
    ],
)
def test_a_size_is_told_in_words(size: Size, words: str) -> None:
    assert str(size) == words


@pytest.mark.parametrize("text", ["", "1024", "0x8", "1024x1024x1024x8", "99999999x8", "-1x8", "1024 x 1024"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size, write 1024x1024"):
        Size.of(text)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "model.safetensors")
    with file.open("rb+") as stream:
        stream.truncate(5 * GIB)
    with pytest.raises(LoadError, match="truncated or corrupt"):
        contents(file)
