"""Device memory is counted and limited, and `torch.xpu` tells what a real one would."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.xpu_sim import Simulation

GIB = 1 << 30
MIB = 1 << 20


def reserve(size: int, device: str = "xpu:0") -> torch.Tensor:
    """Bytes that are never touched, so that gigabytes cost the host nothing."""
    return torch.empty(size, dtype=torch.uint8, device=device)


def allocated(device: int = 0) -> int:
    return torch.xpu.memory_allocated(device)


def test_a_tensor_counts_while_it_lives() -> None:
    before = allocated()
    tensor = reserve(10 * MIB)
    assert allocated() == before + 10 * MIB
    view = tensor[5:]
    del tensor
    assert allocated() == before + 10 * MIB
    del view
    assert allocated() == before


def test_small_tensors_take_whole_blocks() -> None:
    before = allocated()
    tensor = reserve(1)
    assert allocated() - before == 512
    assert torch.xpu.memory_stats()["requested_bytes.all.current"] >= 1
    del tensor


def test_results_of_operators_count() -> None:
    tensor = torch.ones(MIB, device="xpu")
    before = allocated()
    total = tensor + tensor
    assert allocated() - before == 4 * MIB
    product = F.conv2d(tensor.view(1, 4, 512, 512), torch.ones(4, 4, 1, 1, device="xpu"))
    assert allocated() - before == 8 * MIB
    del total, product
    assert allocated() == before


def test_fp16_results_count_in_fp16() -> None:
    tensor = torch.ones(512, 512, device="xpu", dtype=torch.float16)
    before = allocated()
    product = tensor @ tensor
    assert allocated() - before == product.nbytes == MIB // 2


def test_the_other_device_is_not_charged() -> None:
    before = allocated(0)
    tensor = reserve(MIB, "xpu:1")
    assert allocated(0) == before
    assert allocated(1) >= MIB
    del tensor


def test_peak_and_its_reset(sim: Simulation) -> None:
    start = allocated()
    tensor = reserve(100 * MIB)
    del tensor
    assert torch.xpu.max_memory_allocated() == start + 100 * MIB
    assert sim.statistics().devices[0].peak_bytes == start + 100 * MIB
    torch.xpu.reset_peak_memory_stats()
    assert torch.xpu.max_memory_allocated() == start


def test_freed_memory_stays_reserved_until_the_cache_is_emptied() -> None:
    tensor = reserve(100 * MIB)
    del tensor
    assert torch.xpu.memory_reserved() >= 100 * MIB
    torch.xpu.empty_cache()
    assert torch.xpu.memory_reserved() < 100 * MIB
    assert torch.xpu.memory_reserved() == allocated()


def test_the_keys_that_comfyui_reads() -> None:
    stats = torch.xpu.memory_stats(torch.device("xpu:0"))
    for name in ("allocated_bytes", "active_bytes", "reserved_bytes", "requested_bytes"):
        for pool in ("all", "small_pool", "large_pool"):
            for metric in ("current", "peak", "allocated", "freed"):
                assert stats[f"{name}.{pool}.{metric}"] >= 0


def test_full_memory_is_an_out_of_memory_error() -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        reserve(13 * GIB)
    message = str(caught.value)
    assert message.startswith("XPU out of memory. Tried to allocate 13.00 GiB. GPU 0 has a total capacity of 12.00 GiB")
    assert "is reserved by PyTorch but unallocated" in message
    assert reserve(11 * GIB).nbytes == 11 * GIB


def test_an_operator_result_that_does_not_fit_fails_before_it_is_computed() -> None:
    tensor = torch.ones(1, 1, device="xpu").expand(1 << 17, 1 << 17)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 64\.00 GiB"):
        tensor + 1


def test_the_cache_is_reused_before_memory_is_full() -> None:
    for _ in range(3):
        tensor = reserve(8 * GIB)
        del tensor
    assert torch.xpu.memory_reserved() <= 12 * GIB


def test_single_allocation_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 4\.50 GiB\. GPU 1"):
        reserve(int(4.5 * GIB), "xpu:1")
    parts = [reserve(4 * GIB, "xpu:1"), reserve(4 * GIB, "xpu:1")]
    assert sum(part.nbytes for part in parts) == 8 * GIB
    monkeypatch.setenv("UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS", "1")
    assert reserve(int(4.5 * GIB), "xpu:1").nbytes == int(4.5 * GIB)


def test_memory_held_by_another_process(sim: Simulation) -> None:
    sim.change_device(0, other_process_bytes=8 * GIB)
    free, total = torch.xpu.mem_get_info(0)
    assert total == 12 * GIB
    assert free <= 4 * GIB
    with pytest.raises(torch.OutOfMemoryError):
        reserve(5 * GIB)
    sim.change_device(0, other_process_bytes=0)
    assert reserve(5 * GIB).nbytes == 5 * GIB


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("out_of_device_memory", "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
        ("out_of_resources", "UR_RESULT_ERROR_OUT_OF_RESOURCES"),
    ],
)
def test_full_memory_may_be_fatal_until_a_fraction_is_set(sim: Simulation, kind: str, text: str) -> None:
    sim.change_device(0, when_full=kind, other_process_bytes=4 * GIB)
    with pytest.raises(RuntimeError, match=text) as caught:
        reserve(10 * GIB)
    assert not isinstance(caught.value, torch.OutOfMemoryError)
    torch.xpu.set_per_process_memory_fraction(0.5, 0)
    with pytest.raises(torch.OutOfMemoryError):
        reserve(10 * GIB)


def test_memory_fraction() -> None:
    torch.xpu.set_per_process_memory_fraction(0.25, 0)
    assert torch.xpu.get_per_process_memory_fraction(0) == 0.25
    with pytest.raises(torch.OutOfMemoryError):
        reserve(4 * GIB)
    with pytest.raises(RuntimeError, match="invalid fraction"):
        torch.xpu.set_per_process_memory_fraction(2.0, 0)


def test_mem_get_info_follows_the_cache() -> None:
    torch.xpu.empty_cache()
    before, total = torch.xpu.mem_get_info()
    tensor = reserve(GIB)
    held, _ = torch.xpu.mem_get_info()
    assert GIB <= before - held < GIB + 2 * MIB  # whole segments of 2 MiB
    del tensor
    assert torch.xpu.mem_get_info() == (held, total)
    torch.xpu.empty_cache()
    assert torch.xpu.mem_get_info() == (before, total)
    assert torch.accelerator.get_memory_info(0) == (before, total)


def test_mem_get_info_that_raises(sim: Simulation) -> None:
    sim.change_device(0, memory_info="raises")
    with pytest.raises(RuntimeError, match=r"B580 Graphics\) doesn't support querying the available free memory"):
        torch.xpu.mem_get_info(0)
    assert torch.xpu.mem_get_info(1)[1] > 0


def test_mem_get_info_that_answers_zero(sim: Simulation) -> None:
    sim.change_device(0, memory_info="zero")
    assert torch.xpu.mem_get_info(0) == (0, 12 * GIB)


def test_mem_get_info_that_is_frozen(sim: Simulation) -> None:
    sim.change_device(0, memory_info="frozen")
    first = torch.xpu.mem_get_info(0)
    tensor = reserve(2 * GIB)
    assert torch.xpu.mem_get_info(0) == first
    del tensor


def test_an_integrated_device_has_no_more_than_the_host(sim: Simulation) -> None:
    sim.change_device(0, integrated=True, total_bytes=1 << 50)
    assert torch.xpu.get_device_properties(0).is_integrated_gpu
    with open("/proc/meminfo") as lines:
        total_kib = int(lines.readline().split()[1])
    assert torch.xpu.mem_get_info(0)[0] <= total_kib * 1024


def test_an_integrated_device_cannot_hold_more_than_the_host(sim: Simulation) -> None:
    sim.change_device(0, integrated=True, total_bytes=1 << 50, when_full="out_of_resources")
    with pytest.raises(RuntimeError, match="UR_RESULT_ERROR_OUT_OF_RESOURCES"):
        reserve(1 << 49)
    assert reserve(MIB).nbytes == MIB


def test_what_the_host_has_no_memory_for_is_not_charged(sim: Simulation) -> None:
    sim.change_device(0, total_bytes=1 << 62)
    row = torch.ones(1, 1, device="xpu")
    before = allocated()
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        reserve(1 << 60)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        row.expand(1 << 29, 1 << 29) + 1
    assert allocated() == before


def test_math_attention_holds_the_scores_on_the_device(sim: Simulation) -> None:
    query = torch.ones(1, 4, 1024, 16, device="xpu")
    scores_bytes = 4 * 1024 * 1024 * 4

    def peak() -> int:
        torch.xpu.reset_peak_memory_stats()
        start = allocated()
        F.scaled_dot_product_attention(query, query, query)
        return torch.xpu.max_memory_allocated() - start

    assert peak() < scores_bytes
    fused = F.scaled_dot_product_attention(query, query, query)
    sim.change_device(0, sdpa="math")
    assert peak() >= scores_bytes
    torch.testing.assert_close(F.scaled_dot_product_attention(query, query, query), fused)


def test_math_attention_meets_the_single_allocation_limit(sim: Simulation) -> None:
    sim.change_device(1, sdpa="math")
    query = torch.empty(1, 8, 16384, 8, device="xpu:1", dtype=torch.float16)
    with pytest.raises(torch.OutOfMemoryError, match="GPU 1"):
        F.scaled_dot_product_attention(query, query, query)


def test_accelerator_memory_functions_agree() -> None:
    tensor = reserve(MIB)
    assert torch.accelerator.memory_allocated() == allocated()
    assert torch.accelerator.memory_reserved() == torch.xpu.memory_reserved()
    assert torch.accelerator.max_memory_allocated() == torch.xpu.max_memory_allocated()
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    del tensor
