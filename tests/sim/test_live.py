"""Where results are NaN once the cache was emptied, something of each is read before that."""

from __future__ import annotations

import threading

import torch

from tests.xpu_sim import Simulation
from xpu_utils.recovery.live import live_tensors, read_a_value_of_each
from xpu_utils.selftest.operations import EMPTIED, check

XPU = torch.device("xpu:0")


def test_every_tensor_on_the_device_is_found() -> None:
    held = {"plain": torch.ones(3, device=XPU), "weight": torch.nn.Linear(2, 2, device=XPU)}
    elsewhere = torch.ones(3, device="xpu:1")
    found = {id(tensor) for tensor in live_tensors(XPU)}
    assert found >= {id(held["plain"]), id(held["weight"].weight), id(held["weight"].bias)}
    assert id(elsewhere) not in found


def test_a_tensor_without_memory_of_its_own_is_left_out() -> None:
    """Nothing can be kept of it, nor read as it lies."""
    dense = torch.eye(2)
    held = [dense.to_sparse(), dense.to_mkldnn()]
    found = {id(tensor) for tensor in live_tensors(torch.device("cpu"))}
    assert id(dense) in found
    assert not found.intersection(map(id, held))


def test_what_was_read_stays_right(sim: Simulation) -> None:
    x = torch.arange(6.0, device=XPU).view(2, 3)
    sim.add_fault("add", "stale", times=None)
    results = [x + 1, (x + 1).T[1:], (x + 1).to(torch.float8_e4m3fn), torch.ones(0, device=XPU) + 1]
    read_a_value_of_each(XPU)
    torch.xpu.empty_cache()
    assert [bool(result.float().isfinite().all()) for result in results] == [True] * 4
    assert sim.statistics().faults_fired == (0,)


def test_the_self_test_sees_a_device_that_spoils_results(sim: Simulation) -> None:
    assert check("xpu:0", EMPTIED, "fp32").right
    sim.add_fault("index_add", "stale", device=0, times=None)
    assert check("xpu:0", EMPTIED, "fp32").problem == "the answer is not finite"


def test_looking_for_tensors_disturbs_no_other_thread() -> None:
    """One that is building a tuple fails where somebody else holds that."""
    failed: list[BaseException] = []
    ended = threading.Event()

    def build() -> None:
        try:
            while not ended.is_set():
                tuple(number for number in range(1000))
        except SystemError as error:
            failed.append(error)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        live_tensors(XPU)
    ended.set()
    for thread in threads:
        thread.join()
    assert failed == []
