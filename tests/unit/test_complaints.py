"""What ComfyUI only logs about missing weights is read from its log, without what files may leave out."""

from __future__ import annotations

import pytest

from xpu_utils.host.loading.complaints import required_weights

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
