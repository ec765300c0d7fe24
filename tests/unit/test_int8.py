"""Layers held in int8: what is packed comes back, products are close, and what would lose too much is left alone."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode

from xpu_utils import int8
from xpu_utils.int8.mixing import mixed, order
from xpu_utils.weights.int8_layers import Int8Layer, Int8Use, eligible, hold, hold_again, holds_int8

SIDES = st.integers(1, 40).map(lambda eighths: 8 * eighths)
FLOATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(out=SIDES, width=SIDES, dtype=FLOATS, power=st.integers(-3, 2), columns=st.booleans())
def test_a_packed_weight_comes_back_rounded_to_steps_of_its_channel(
    out: int, width: int, dtype: torch.dtype, power: int, columns: bool
) -> None:
    weight = (normal(out, width) * 10.0**power).to(dtype)
    packed = int8.pack(weight, columns=columns)
    values, scales = int8.unpacked(packed, out, columns=columns)
    assert (values.shape, scales.shape, packed.dtype) == (weight.shape, (out,), torch.int8)
    off = int8.dequantised(packed, out, torch.float32, columns=columns) - weight.float()
    # Mixed values are the root of their number in a group as large, and so are their steps.
    assert bool((off.norm(dim=1) <= 0.501 * scales * (width / order(width)) ** 0.5).all())
    assert torch.equal(values.abs().amax(1), torch.full((out,), 127, dtype=torch.int8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-5, 1e-6])
def test_small_weights_lose_no_more_than_by_int8_and_by_the_format_itself(dtype: torch.dtype, size: float) -> None:
    weight = normal(64, 320) * size
    packed = int8.pack(weight)
    rounded, back = weight.to(dtype).float(), int8.dequantised(packed, 64, dtype).float()
    unavoidable = float((rounded - weight).norm() / weight.norm()) + int8.loss(weight, packed)
    assert float((back - weight).norm() / weight.norm()) < 1.1 * unavoidable


@settings(max_examples=30, deadline=None)
@given(out=SIDES, width=SIDES, dtype=FLOATS, power=st.integers(-3, 2), bias=st.booleans(), columns=st.booleans())
def test_a_product_is_close_to_that_of_floats_whatever_the_size_of_its_input(
    out: int, width: int, dtype: torch.dtype, power: int, bias: bool, columns: bool
) -> None:
    given = (normal(2, 20, width) * 10.0**power).to(dtype)
    weight, added = normal(out, width, seed=2), normal(out, seed=3).to(dtype) if bias else None
    expected = nn.functional.linear(given.float(), weight, None if added is None else added.float())
    for product in (int8.linear, int8.linear_by_floats):
        answer = product(given, int8.pack(weight, columns=columns), out, added, columns=columns)
        assert (answer.shape, answer.dtype) == ((2, 20, out), dtype)
        assert float((answer.float() - expected).norm() / expected.norm()) < 0.05


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 200), dtype=FLOATS)
def test_products_of_what_is_mixed_are_those_of_what_was_not(width: int, dtype: torch.dtype) -> None:
    given, weight = normal(9, width).to(dtype), normal(5, width, seed=2).to(dtype)
    answer = mixed(given).double() @ (mixed(weight.double()) * order(width)).T
    assert float(mixed(given).abs().max()) <= float(given.abs().max())
    torch.testing.assert_close(answer, given.double() @ weight.double().T, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("where", ["in each token", "in each channel out"])
def test_a_value_thirty_times_the_others_costs_them_no_precision(where: str) -> None:
    given, weight = normal(64, 1024), normal(256, 1024, seed=2)
    (given if where == "in each token" else weight)[:, 7] *= 30
    expected = given @ weight.T
    answer = int8.linear(given, int8.pack(weight), 256, None)
    assert float((answer - expected).norm() / expected.norm()) < 0.02


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(1, 80), out=SIDES, width=SIDES)
def test_sums_on_the_cpu_are_those_of_pytorchs_own_product_to_the_bit(tokens: int, out: int, width: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    given, weight = (torch.randint(-127, 128, (n, width), generator=generator).to(torch.int8) for n in (tokens, out))
    answer = int8.product((given, torch.ones(tokens, 1)), (weight, torch.ones(out)), torch.float32)
    assert torch.equal(answer, torch._int_mm(given, weight.t()).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_zeros_stay_zeros_and_what_is_not_finite_stays_so(dtype: torch.dtype) -> None:
    given = normal(40, 64).to(dtype)
    given[0], given[1, 3], given[2, 4] = 0, torch.nan, torch.inf
    answer = int8.linear(given, int8.pack(normal(64, 64)), 64, None)
    finite = answer.isfinite().all(1)
    assert bool((answer[0] == 0).all())
    assert not finite[1]
    assert not finite[2]
    assert bool(finite[3:].all())


def test_memory_that_is_full_tells_nothing_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("full")

    for name in ("triton", "xpu_utils.int8.kernels"):
        module: Any = types.ModuleType(name)
        module.__spec__, module.product = ModuleSpec(name, None), fail
        monkeypatch.setitem(sys.modules, name, module)
    for _ in range(2):  # it is not remembered
        with pytest.raises(torch.OutOfMemoryError):
            int8.per_token(torch.empty(40, 64, device="meta"))


def network() -> nn.Module:
    """Blocks of a layer that can be held, and of layers that are to stay."""
    block = nn.ModuleDict(
        {
            "layer": nn.Linear(64, 128),
            "adaLN_modulation": nn.Linear(64, 128),
            "small": nn.Linear(64, 8),
            "odd": nn.Linear(64, 68),
            "spread": nn.Linear(16384, 64),
            "damaged": nn.Linear(64, 64),
        }
    )
    with torch.no_grad():
        block["spread"].weight[:, 0] = 0.5  # a hundred times as large as the others
        block["damaged"].weight[0, 0] = torch.nan
    return nn.ModuleDict({"blocks": nn.ModuleList([block]), "time_embed": nn.Linear(64, 64), "last": nn.Linear(64, 64)})


def use(products: bool = True, columns: bool = False) -> Int8Use:
    return Int8Use(lambda *_: products, lambda: None, columns=columns)


def test_what_would_lose_too_much_stays_in_floats() -> None:
    root = network()
    assert [name for name, _ in eligible(root, [nn.Linear])] == [
        f"blocks.0.{x}" for x in ("layer", "spread", "damaged")
    ]
    hold(root, [nn.Linear], use())
    assert [name for name, layer in root.named_modules() if isinstance(layer, Int8Layer)] == ["blocks.0.layer"]


@pytest.mark.parametrize(
    ("part", "stays"),
    [
        *[
            (name, True)
            for name in ("img_mod", "adaLN_modulation", "modX", "modulate", "temb_proj", "x_embedder", "time_in")
        ],
        *[
            (name, False)
            for name in ("language_model", "model", "multimodal_in", "cross_modal", "gate_modules", "to_q")
        ],
    ],
)
def test_embeddings_and_modulations_stay_by_the_words_of_their_names(part: str, stays: bool) -> None:
    root = nn.ModuleDict({part: nn.ModuleList([nn.Linear(64, 64)])})
    assert [name for name, _ in eligible(root, [nn.Linear])] == ([] if stays else [f"{part}.0"])


def test_undone_the_layers_and_their_weights_are_the_ones_before() -> None:
    root = network()
    layer = root.get_submodule("blocks.0.layer")
    weight = layer.weight
    holding = hold(root, [nn.Linear], use())
    assert isinstance(layer, nn.Linear)
    assert layer.weight.dtype == torch.int8
    holding.undo()
    assert (type(layer), layer.weight is weight, "int8" in vars(layer)) == (nn.Linear, True, False)


@pytest.mark.parametrize("patched_in", ["floats", "int8"])
@torch.inference_mode()
def test_a_forward_that_a_host_backed_up_computes_in_what_the_layer_is_held_in(patched_in: str) -> None:
    root, given = network(), normal(64, 64)
    layer = root.get_submodule("blocks.0.layer")
    floats = layer(given)
    holding = hold(root, [nn.Linear], use()) if patched_in == "int8" else None
    layer.forward = layer.forward  # what ComfyUI leaves when it takes a patch off
    holding = holding or hold(root, [nn.Linear], use())
    assert 0 < float((layer(given) - floats).norm() / floats.norm()) < 0.05
    holding.undo()
    assert torch.equal(layer(given), floats)


@pytest.mark.parametrize("products", [True, False])
@torch.inference_mode()
def test_a_patch_that_is_applied_at_every_use_is_followed(products: bool) -> None:
    root = network()
    layer = root.get_submodule("blocks.0.layer")
    hold(root, [nn.Linear], use(products, columns=products))
    given = normal(64, 64)
    before = layer(given)
    layer.weight_function = [lambda weight: layer.convert_weight(weight) * 2]
    layer.bias_function = [lambda bias: bias * 2]
    torch.testing.assert_close(layer(given), 2 * before, rtol=0.1, atol=0.1)


@torch.inference_mode()
def test_what_was_read_again_is_packed_again() -> None:
    root = network()
    layer = root.get_submodule("blocks.0.layer")
    weight = layer.weight
    hold(root, [nn.Linear], use())
    packed = layer.weight
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    hold_again(root)
    assert torch.equal(layer.weight, packed)


class Interrupted(TorchFunctionMode):
    """Has a later one of PyTorch's calls end as ComfyUI's interrupt does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


@settings(max_examples=30, deadline=None)
@given(after=st.integers(0, 600), for_good=st.booleans())
def test_a_network_whose_packing_was_interrupted_is_as_before_or_can_be_packed_on(after: int, for_good: bool) -> None:
    root = nn.ModuleList([network(), network()])
    layers: list[Any] = [module for module in root.modules() if isinstance(module, nn.Linear)]
    before = [(type(layer), id(layer.weight)) for layer in layers]
    with Interrupted(after), pytest.raises(KeyboardInterrupt):
        hold(root, [nn.Linear], use(), for_good=for_good)
    assert not holds_int8(root)
    if not for_good:
        assert [(type(layer), id(layer.weight)) for layer in layers] == before
    hold(root, [nn.Linear], use(), for_good=for_good)
    assert holds_int8(root)
    assert sum(isinstance(module, Int8Layer) for module in root.modules()) == 2
