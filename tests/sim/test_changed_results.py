"""Faults that change a result instead of raising: what they change, and that they count only then."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.xpu_sim import Fault, Simulation


def fired(sim: Simulation) -> tuple[int, ...]:
    return sim.statistics().faults_fired


def test_nan_in_a_result(sim: Simulation) -> None:
    sim.add_fault("_softmax", "nan")
    tensor = torch.ones(2, 3, device="xpu")
    assert tensor.softmax(0).isnan().all()
    assert torch.equal(tensor, torch.ones_like(tensor))
    assert not tensor.softmax(0).isnan().any()
    assert fired(sim) == (1,)


def test_nan_in_place(sim: Simulation) -> None:
    sim.add_fault("mul_", "nan")
    tensor = torch.ones(2, 3, device="xpu")
    assert tensor.mul_(2) is tensor
    assert tensor.isnan().all()


def test_views_compute_nothing_that_could_be_nan(sim: Simulation) -> None:
    tensor = torch.ones(2, 3).to("xpu")
    sim.add_fault("*", "nan", times=None)
    tensor.t()[1:].unfold(0, 1, 1)
    assert fired(sim) == (0,)
    sim.clear_faults()
    assert not tensor.isnan().any()


@pytest.mark.parametrize(("elements", "right"), [(256, 256), (1024, 256)])
def test_wrong_result_above_a_size(sim: Simulation, elements: int, right: int) -> None:
    sim.add_fault("add", "wrong_result", above_bytes=1024, times=None)
    tensor = torch.arange(elements, dtype=torch.float32, device="xpu")
    same = (tensor + 1).cpu() == torch.arange(elements) + 1
    assert same[:right].all()
    assert not same[right:].any()


def test_a_small_result_does_not_use_the_fault_up(sim: Simulation) -> None:
    sim.add_fault("add", "nan", above_bytes=1024)
    small, large = torch.ones(4, device="xpu"), torch.ones(1024, device="xpu")
    assert not (small + 1).isnan().any()
    assert fired(sim) == (0,)
    assert (large + 1).isnan().all()
    assert not (large + 1).isnan().any()
    assert fired(sim) == (1,)


def test_a_result_that_is_no_fraction_does_not_use_the_fault_up(sim: Simulation) -> None:
    sim.add_fault("add", "nan")
    assert (torch.ones(2, dtype=torch.int64, device="xpu") + 1).tolist() == [2, 2]
    assert fired(sim) == (0,)
    assert (torch.ones(2, device="xpu") + 1).isnan().all()


def test_every_result_of_one_call_is_changed(sim: Simulation) -> None:
    sim.add_fault("native_layer_norm", "nan")
    results = torch.native_layer_norm(torch.randn(2, 8).to("xpu"), (8,), None, None, 1e-5)
    assert all(result.isnan().all() for result in results)
    assert fired(sim) == (1,)


@pytest.mark.parametrize("sdpa", ["flash", "math"])
@pytest.mark.parametrize("kind", ["nan", "wrong_result"])
def test_attention(sim: Simulation, kind: str, sdpa: str) -> None:
    sim.change_device(0, sdpa=sdpa)
    query = torch.randn(1, 2, 8, 8).to("xpu")
    right = F.scaled_dot_product_attention(query, query, query)
    sim.add_fault("scaled_dot_product_attention", kind)
    changed = F.scaled_dot_product_attention(query, query, query)
    assert (changed.isnan() if kind == "nan" else changed != right).all()
    assert fired(sim) == (1,)
    assert torch.equal(F.scaled_dot_product_attention(query, query, query), right)


@pytest.mark.parametrize("kind", ["nan", "wrong_result"])
@pytest.mark.parametrize(("source", "target"), [("cpu", "xpu:0"), ("xpu:0", "cpu"), ("xpu:0", "xpu:1")])
def test_copies(sim: Simulation, kind: str, source: str, target: str) -> None:
    tensor = torch.ones(4).to(source)
    sim.add_fault("copy_", kind)
    copied = tensor.to(target)
    sim.clear_faults()
    assert (copied.isnan() if kind == "nan" else copied == 0).all()
    assert tensor.tolist() == [1, 1, 1, 1]


def test_new_tensors_and_numbers(sim: Simulation) -> None:
    sim.set_faults([Fault(operator="empty", kind="nan"), Fault(operator="_local_scalar_dense", kind="nan")])
    assert torch.empty(4, device="xpu").isnan().all()
    number = torch.ones(1, device="xpu")
    assert math.isnan(number.item())
    assert number.item() == 1
    assert fired(sim) == (1, 1)
