"""Views share memory; in-place operators and `out=` write where they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.sim.comparing import HALVES, INDEX, MASK, Function, check, check_or_refuse, numbers

VIEWS: dict[str, Function] = {
    "view": lambda x: x.view(6, 4),
    "view of a dtype": lambda x: x.view(torch.int32),
    "reshape": lambda x: x.reshape(2, 12),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(0, 2),
    "slice": lambda x: x[:, 1:, ::2],
    "select": lambda x: x[1],
    "narrow": lambda x: x.narrow(2, 1, 2),
    "expand": lambda x: x[:, :1].expand(2, 5, 4),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "chunk": lambda x: x.chunk(2, 2)[1],
    "split": lambda x: x.split([1, 3], 2)[1],
    "tensor_split": lambda x: x.tensor_split(3, 2)[2],
    "unbind": lambda x: x.unbind(1)[2],
    "diagonal": lambda x: x.diagonal(0, 1, 2),
    "movedim": lambda x: x.movedim(0, 2),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "unfold": lambda x: x.unfold(2, 2, 1),
    "as_strided": lambda x: x.as_strided((3, 2), (4, 1), 2),
    "detach": lambda x: x.detach(),
    "ellipsis": lambda x: x[..., None, 0],
    "view_as_complex": lambda x: torch.view_as_complex(x.view(2, 3, 2, 2)).real,
    "mT": lambda x: x.mT,
    "storage": lambda x: torch.empty(0, device=x.device).set_(x.untyped_storage(), 3, (2, 2), (4, 1)),
    "parameter": lambda x: torch.nn.Parameter(x).data[0],
}


@pytest.mark.parametrize("name", VIEWS)
def test_view_shares_memory(name: str) -> None:
    def through_view(x: torch.Tensor) -> torch.Tensor:
        view = VIEWS[name](x)
        before = view.clone()
        (view[..., 0] if view.dim() else view).fill_(3)
        return before

    base = numbers(2, 3, 4)
    untouched = base.clone()
    check(through_view, base)
    assert not torch.equal(base, untouched)


# Not where the view is larger than what it is of: nobody wrote the rest.
@pytest.mark.parametrize("name", [name for name in VIEWS if name != "storage"])
def test_view_of_nothing(name: str) -> None:
    check_or_refuse(VIEWS[name], numbers(2, 0, 4))


def set_item(key: Any) -> Function:
    def run(x: torch.Tensor) -> torch.Tensor:
        x[key] = 7
        return x

    return run


IN_PLACE: dict[str, Function] = {
    "add_": lambda x: x.add_(x, alpha=2),
    "iadd": lambda x: x.__iadd__(1),
    "mul_": lambda x: x.mul_(0.5),
    "div_": lambda x: x.div_(3),
    "clamp_": lambda x: x.clamp_(-0.5, 0.5),
    "fill_": lambda x: x.fill_(2),
    "zero_": lambda x: x.zero_(),
    "copy_": lambda x: x.copy_(x[0].clone()),
    "copy_ of another dtype": lambda x: x.copy_((x * 10).int()),
    "exp_": lambda x: x.exp_(),
    "silu_": lambda x: F.silu(x, inplace=True),
    "relu_": lambda x: x.relu_(),
    "addcmul_": lambda x: x.addcmul_(x, x, value=0.1),
    "addcdiv_": lambda x: x.addcdiv_(x, x.abs() + 1),
    "lerp_": lambda x: x.lerp_(x * 2, 0.3),
    "masked_fill_": lambda x: x.masked_fill_(MASK.to(x.device), 9),
    "index_fill_": lambda x: x.index_fill_(0, INDEX.to(x.device), 4),
    "index_copy_": lambda x: x.index_copy_(0, INDEX.to(x.device)[:2], x[:2] * 2),
    "index_add_": lambda x: x.index_add_(0, INDEX.to(x.device), x.clone()),
    "index_put_": lambda x: x.index_put_((INDEX.to(x.device),), x[0].clone()),
    "index_put_ accumulating": lambda x: x.index_put_((INDEX,), x[0].clone(), accumulate=True),
    "scatter_": lambda x: x.scatter_(0, INDEX.to(x.device)[:, None], 5.0),
    "scatter_add_": lambda x: x.scatter_add_(0, INDEX.to(x.device)[:, None].expand(3, 4), x.clone()),
    "set a row": set_item(1),
    "set a slice": set_item((slice(None), slice(1, 3))),
    "set by a mask": set_item(MASK),
    "set by indices": set_item(INDEX),
    "set everything": set_item(...),
    "transpose_": lambda x: x.transpose_(0, 1),
    "unsqueeze_": lambda x: x.unsqueeze_(0),
    "resize_ smaller": lambda x: x.resize_(2, 4),
    "tril_": lambda x: x.tril_(),
    "in place on a view": lambda x: x[1:].add_(1),
    "in place on a transpose": lambda x: x.t()[1:3].mul_(2),
    "overlapping copy": lambda x: x[:2].copy_(x[1:].clone()),
    "baddbmm_": lambda x: x.clone()[None].baddbmm_(x[None, :, :3], x[None]),
    "foreach": lambda x: torch._foreach_add_([x[0], x[1]], 1.0),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name: str) -> None:
    check(IN_PLACE[name], numbers(3, 4))


@pytest.mark.parametrize("name", [name for name in IN_PLACE if name != "resize_ smaller"])
def test_in_place_on_nothing(name: str) -> None:
    check_or_refuse(IN_PLACE[name], numbers(0, 4))


def test_resize_larger_keeps_what_was_there() -> None:
    tensor = torch.arange(4.0, device="xpu")
    tensor.resize_(2, 4)
    assert tensor.shape == (2, 4)
    assert tensor.device.type == "xpu"
    assert tensor[0].tolist() == [0, 1, 2, 3]


OUT: dict[str, Function] = {
    "add": lambda x, out: torch.add(x, x, out=out),
    "exp": lambda x, out: torch.exp(x, out=out),
    "matmul": lambda x, out: torch.matmul(x, x, out=out),
    "addmm": lambda x, out: torch.addmm(x, x, x, out=out),
    "cat": lambda x, out: torch.cat((x[:2], x[2:]), out=out),
    "clamp": lambda x, out: torch.clamp(x, 0, 1, out=out),
    "where": lambda x, out: torch.where(x > 0, x, x * 2, out=out),
    "softmax": lambda x, out: torch.softmax(x, 1, out=out),
    "cumsum": lambda x, out: torch.cumsum(x, 0, out=out),
    "tril": lambda x, out: torch.tril(x, out=out),
    "gather": lambda x, out: torch.gather(x, 0, (x > 0).long(), out=out),
    "take_along_dim": lambda x, out: torch.take_along_dim(x, (x > 0).long(), 1, out=out),
}


@pytest.mark.parametrize("layout", ["right", "empty", "transposed"])
@pytest.mark.parametrize("name", OUT)
def test_out(name: str, layout: str) -> None:
    out = {
        "right": lambda: torch.zeros(4, 4),
        "empty": lambda: torch.zeros(0),
        "transposed": lambda: torch.zeros(4, 4).t(),
    }[layout]()
    check(OUT[name], numbers(4, 4), out)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_out_in_reduced_precision(dtype: torch.dtype) -> None:
    check(OUT["matmul"], numbers(4, 4, dtype=dtype), torch.zeros(4, 4, dtype=dtype), rtol=1e-2, atol=1e-2)
