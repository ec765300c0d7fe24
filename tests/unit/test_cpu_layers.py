"""Stand-ins for layers compute what the layers compute, and step aside where they cannot."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.unit.test_cpu import PLAN
from xpu_utils.cpu import layers
from xpu_utils.cpu.layers import (
    channels_last,
    exact_gelu,
    fast_convolutions,
    fast_linears,
    fast_upsampling,
    gated_gelu,
    patch_convolutions,
    picture_attention,
)

BOTH = dataclasses.replace(PLAN, onednn_linear=("fp32", "bf16"), convolution_as_product=("fp32", "bf16"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layers_stand_in_gives_its_result(dtype: torch.dtype, bias: bool) -> None:
    layer = torch.nn.Linear(24, 10, bias=bias).to(dtype).requires_grad_(False)
    ((name, forward),) = fast_linears(torch.nn.Sequential(layer), BOTH)
    assert name == "0.forward"
    given = torch.randn(2, 5, 24).to(dtype)
    torch.testing.assert_close(forward(given), layer(given))


def test_the_stand_in_sees_replaced_weights() -> None:
    """LoRA patches put new weights into the layer."""
    layer = torch.nn.Linear(8, 8).requires_grad_(False)
    ((_, forward),) = fast_linears(torch.nn.Sequential(layer), BOTH)
    given = torch.randn(3, 8)
    layer.weight = torch.nn.Parameter(torch.eye(8), requires_grad=False)
    layer.bias.zero_()
    torch.testing.assert_close(forward(given), given)


def test_a_compiled_layer_is_the_compilers() -> None:
    """PyTorch's compiler does not stand oneDNN's operator, which it makes of linear layers itself."""
    ((_, forward),) = fast_linears(torch.nn.Sequential(torch.nn.Linear(8, 6).requires_grad_(False)), BOTH)
    seen: list[str] = []

    def note(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    with torch.inference_mode():
        torch.compile(lambda given: forward(given), backend=note)(torch.randn(3, 8))
    assert seen
    assert not [target for target in seen if "mkldnn" in target]


class _Pointwise(torch.nn.Linear):
    """As in Mochi's VAE: channels are the first dimension, not the last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def test_a_subclass_with_a_forward_of_its_own_keeps_it() -> None:
    root = torch.nn.Sequential(_Pointwise(8, 8), _Casting(8, 8))
    found = fast_linears(root, BOTH, kinds=(torch.nn.Linear, _Casting))
    assert [name for name, _ in found] == ["1.forward"]


class _Casting(torch.nn.Linear):
    """A layer like ComfyUI's: it casts its weights to the input's dtype and applies patches while it runs."""

    weight_function: tuple[object, ...] = ()

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return torch.full((*given.shape[:-1], self.out_features), 42.0)


@pytest.mark.parametrize("reason", ["dtype", "patch", "precision", "gradient"])
def test_the_stock_forward_runs_where_the_stand_in_cannot(reason: str) -> None:
    layer = _Casting(8, 8)
    layer.requires_grad_(reason == "gradient")
    plan = dataclasses.replace(PLAN, onednn_linear=()) if reason == "precision" else BOTH
    if reason == "patch":
        layer.weight_function = (object(),)
    ((_, forward),) = fast_linears(torch.nn.Sequential(layer), plan, kinds=(_Casting,))
    given = torch.randn(3, 8, dtype=torch.bfloat16 if reason == "dtype" else torch.float32)
    assert (forward(given) == 42).all()


CONVOLUTIONS = {
    "few pixels": (torch.nn.Conv2d(5, 64, 3, padding=1), (2, 5, 4, 4), True),
    "without bias": (torch.nn.Conv2d(5, 64, 3, padding="same", bias=False), (1, 5, 3, 7), True),
    "one pixel at a time": (torch.nn.Conv2d(5, 6, 1), (2, 5, 9, 8), True),
    "many pixels": (torch.nn.Conv2d(5, 64, 3, padding=1), (2, 5, 9, 8), False),
    "a small weight": (torch.nn.Conv2d(5, 32, 3, padding=1), (1, 5, 4, 4), False),
    "without a batch": (torch.nn.Conv2d(5, 64, 3, padding=1), (5, 4, 4), False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_s_stand_in_gives_its_result(
    case: str, layout: torch.memory_format, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "LARGE_WEIGHT", 64 * 5 * 3 * 3)
    layer, shape, as_product = CONVOLUTIONS[case]
    layer = copy.deepcopy(layer).to(dtype).requires_grad_(False)
    channels_last(layer)
    given = torch.randn(shape).to(dtype)
    given = given if given.ndim == 3 else given.to(memory_format=layout)
    expected = layer(given)
    ((name, forward),) = fast_convolutions(torch.nn.Sequential(layer), BOTH)
    assert name == "0.forward"
    if as_product:
        monkeypatch.setattr(torch.nn.Conv2d, "forward", None)  # then the result is the stand-in's own
    out = forward(given)
    torch.testing.assert_close(out, expected)
    assert not as_product or out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(6, 64, 3),
        torch.nn.Conv2d(6, 64, 3, stride=2, padding=1),
        torch.nn.Conv2d(6, 64, 3, padding=2, dilation=2),
        torch.nn.Conv2d(6, 64, 3, padding=1, groups=2),
        torch.nn.Conv2d(6, 64, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv2d(6, 64, 5, padding=2),
        torch.nn.Conv2d(6, 64, 1, padding=1),
    ],
)
def test_other_convolutions_are_left_alone(layer: torch.nn.Conv2d) -> None:
    assert list(fast_convolutions(torch.nn.Sequential(layer), BOTH)) == []


class _Gate(torch.nn.Module):
    """As in ComfyUI's transformers."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(24, 20, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gate_in_bf16_is_nearer_to_the_exact_result(bias: bool) -> None:
    gate = _Gate(bias).requires_grad_(False).bfloat16()
    given = torch.randn(2, 50, 24).bfloat16()
    plain, exact = gate(given).float(), copy.deepcopy(gate).float()(given.float())
    ((_, gate.proj.forward),) = fast_linears(gate, BOTH)
    out = gated_gelu(BOTH.onednn_linear, gate, given)
    assert out is not None
    assert (out.float() - exact).norm() < (plain - exact).norm()


@pytest.mark.parametrize("reason", ["another forward", "hook", "dtype"])
def test_a_gate_whose_projection_is_another_s_is_left_alone(reason: str) -> None:
    gate = _Gate(bias=True).requires_grad_(False)
    ((_, gate.proj.forward),) = fast_linears(gate, BOTH)
    if reason == "another forward":
        gate.proj.forward = lambda x: x
    if reason == "hook":
        gate.proj.register_forward_hook(lambda *_: None)
    given = torch.randn(3, 24, dtype=torch.bfloat16 if reason == "dtype" else torch.float32)
    assert gated_gelu(BOTH.onednn_linear, gate, given) is None


@pytest.mark.parametrize("layer", [torch.nn.Conv2d, torch.nn.Conv3d])
def test_patches_come_as_tokens_whose_values_are_side_by_side(layer: type[torch.nn.Module]) -> None:
    patches = layer(4, 16, 2, stride=2).requires_grad_(False)
    network = torch.nn.Sequential(patches, layer(16, 16, 3, padding=1), layer(16, 16, 1), layer(16, 16, 3, stride=2))
    ((name, forward),) = patch_convolutions(network)
    assert name == "0.forward"
    given = torch.randn(2, 4, *[8] * (patches.weight.ndim - 2))
    assert torch.equal(forward(given), patches(given))
    assert forward(given).flatten(2).transpose(1, 2).is_contiguous()


def test_gelu_by_tanh_is_the_exact_one_in_bf16_and_no_further_off_than_rounding() -> None:
    approximate = torch.nn.GELU(approximate="tanh")
    given = torch.randn(1 << 16).bfloat16()
    out, expected = exact_gelu(("bf16",), approximate, given), approximate(given.double())
    assert out is not None
    assert torch.equal(out, F.gelu(given))
    assert (out - expected).norm() < 1.05 * (approximate(given) - expected).norm()
    assert exact_gelu(("bf16",), approximate, given.float()) is None
    assert exact_gelu((), approximate, given) is None
    assert exact_gelu(("bf16",), torch.nn.GELU(), given) is None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_picture_attention_is_one_head_over_all_pixels(layout: torch.memory_format) -> None:
    q, k, v = (torch.randn(2, 32, 6, 5).to(memory_format=layout) for _ in range(3))
    tokens = [t.flatten(2).transpose(1, 2) for t in (q, k, v)]
    weights = (tokens[0] @ tokens[1].transpose(1, 2) * 32**-0.5).softmax(-1)
    expected = (weights @ tokens[2]).transpose(1, 2).reshape(2, 32, 6, 5)
    torch.testing.assert_close(picture_attention(BOTH, q, k, v), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (1, 9), (5, 7), (8, 8)])
def test_upsampling_in_parts_gives_the_whole(bias: bool, height: int, width: int) -> None:
    convolution = torch.nn.Conv2d(6, 4, 3, padding=1, bias=bias).requires_grad_(False)
    given = torch.randn(2, 6, height, width)
    out = fast_upsampling(convolution, given)
    assert out is not None
    torch.testing.assert_close(out, convolution(F.interpolate(given, scale_factor=2, mode="nearest")))


@pytest.mark.parametrize("side", [4, 16])
def test_upsampling_in_bf16_rounds_like_the_plain_way(side: int) -> None:
    convolution = torch.nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False)
    given = torch.randn(1, 32, side, side).bfloat16()
    exact = convolution.to(torch.float32)(F.interpolate(given.float(), scale_factor=2, mode="nearest"))
    out = fast_upsampling(convolution.to(torch.bfloat16), given)
    assert out is not None
    assert float((out.float() - exact).norm() / exact.norm()) < 6e-3


@pytest.mark.parametrize(
    "convolution",
    [
        torch.nn.Conv2d(6, 4, 3, padding=0),
        torch.nn.Conv2d(6, 4, 3, padding=1, stride=2),
        torch.nn.Conv2d(6, 4, 1),
        torch.nn.Conv2d(6, 6, 3, padding=1, groups=2),
        torch.nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv2d(6, 4, 3, padding=1).bfloat16(),
        None,
    ],
)
def test_other_upsampling_is_left_alone(convolution: torch.nn.Module | None) -> None:
    if convolution is not None:
        convolution.requires_grad_(False)
    assert fast_upsampling(convolution, torch.randn(2, 6, 8, 8)) is None


def test_only_two_dimensional_convolutions_change_their_layout() -> None:
    flat, deep = torch.nn.Conv2d(4, 6, 3), torch.nn.Conv3d(4, 6, 3)
    values = flat.weight.clone()
    channels_last(torch.nn.Sequential(flat, deep))
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(flat.weight, values)
    assert deep.weight.is_contiguous()
