"""What ran where, what was copied, and how."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from tests.xpu_sim import Simulation, Statistics


def test_operators_are_counted_by_device(sim: Simulation) -> None:
    first, second = torch.ones(4, device="xpu:0"), torch.ones(4, device="xpu:1")
    sim.reset_statistics()
    first.exp()
    first.exp()
    second.exp()
    counts = sim.statistics().devices
    assert [device.count("exp") for device in counts] == [2, 1]
    assert counts[0].executed["aten::exp"] == 2
    assert sim.statistics().cpu_count("exp") == 0


def test_operators_on_host_tensors_are_counted(sim: Simulation) -> None:
    layer = torch.nn.Linear(16, 16)
    sim.reset_statistics()
    layer(torch.ones(1000, 16))
    statistics = sim.statistics()
    assert statistics.cpu_count("addmm") == 1
    assert statistics.on_cpu["aten::addmm"].largest_bytes == 64000
    assert sum(device.count("addmm") for device in statistics.devices) == 0


def test_what_a_device_kernel_does_inside_is_not_host_work(sim: Simulation) -> None:
    layer = torch.nn.Conv2d(3, 3, 3).to("xpu")
    inputs = torch.ones(1, 3, 8, 8, dtype=torch.float32, device="xpu")
    half = layer.to(torch.float16)
    sim.reset_statistics()
    half(inputs.half())
    statistics = sim.statistics()
    assert statistics.devices[0].count("convolution") == 1
    assert statistics.on_cpu == {}


def test_copies(sim: Simulation) -> None:
    host = torch.ones(100)
    pinned = torch.ones(50).pin_memory()
    sim.reset_statistics()
    host.to("xpu:1")
    stream = torch.xpu.Stream()
    with torch.xpu.stream(stream):
        device = pinned.to("xpu:0", non_blocking=True)
    device.to("xpu:1")
    device.cpu()
    copies = sim.statistics().copies
    assert [(c.direction, c.device, c.bytes, c.pinned, c.non_blocking) for c in copies] == [
        ("host_to_device", 1, 400, False, False),
        ("host_to_device", 0, 200, True, True),
        ("device_to_device", 1, 200, False, False),
        ("device_to_host", 0, 200, False, False),
    ]
    assert copies[1].stream == stream.stream_id
    assert copies[0].stream == 0


def test_a_tensor_was_copied_once(sim: Simulation) -> None:
    weight, other = torch.ones(100), torch.ones(100)
    weight.to("xpu")
    other.to("xpu")
    other.to("xpu")
    statistics = sim.statistics()
    assert len(statistics.copies_of(weight)) == 1
    assert len(statistics.copies_of(other)) == 2
    assert statistics.bytes_copied("host_to_device") == 1200
    assert statistics.bytes_copied("host_to_device", device=1) == 0


def test_copies_within_a_device_are_operators(sim: Simulation) -> None:
    tensor = torch.ones(4, device="xpu")
    sim.reset_statistics()
    tensor.clone()
    statistics = sim.statistics()
    assert statistics.copies == ()
    assert statistics.devices[0].count("copy_") == 1


def test_reading_a_number_is_a_copy(sim: Simulation) -> None:
    tensor = torch.ones(4, device="xpu")
    sim.reset_statistics()
    tensor[0].item()
    assert [copy.bytes for copy in sim.statistics().copies] == [4]


def test_allocations_are_counted_since_the_reset(sim: Simulation) -> None:
    torch.empty(4, device="xpu")
    sim.reset_statistics()
    torch.empty(4, device="xpu")
    torch.empty(0, device="xpu")
    assert sim.statistics().devices[0].allocations == 1


def test_sparse_tensors_on_the_host_are_counted(sim: Simulation) -> None:
    sparse = torch.eye(3).to_sparse()
    sim.reset_statistics()
    total = torch.sparse.mm(sparse, torch.ones(3, 3))
    assert total.tolist() == [[1.0] * 3] * 3
    assert sim.statistics().cpu_count("_sparse_mm") == 1


def test_copies_that_are_no_longer_listed_cannot_be_counted(sim: Simulation) -> None:
    tensor = torch.ones(4)
    statistics = dataclasses.replace(sim.statistics(), copies_dropped=3)
    for count in (lambda: statistics.copies_of(tensor), lambda: statistics.bytes_copied("host_to_device")):
        with pytest.raises(RuntimeError, match=r"^3 copies are no longer listed.* reset the statistics"):
            count()


def test_a_snapshot_survives_json(sim: Simulation) -> None:
    torch.ones(4).to("xpu").exp()
    snapshot = sim.statistics()
    assert Statistics.from_json(json.loads(json.dumps(snapshot.to_json()))) == snapshot
