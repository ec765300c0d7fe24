"""Faults come when and where they were asked for, with the words of Intel's runtime."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.xpu_sim import BadConfig, Fault, Simulation
from tests.xpu_sim.faults import KINDS
from tests.xpu_sim.fixtures import RunSnippet

MESSAGES = {
    "out_of_device_memory": "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "out_of_resources": "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
    "invalid_argument": "level_zero backend failed with error: 45 (UR_RESULT_ERROR_INVALID_ARGUMENT)",
    "native_api_39": "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "native_api_40": "Native API failed. Native API returns: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_runtime_errors(sim: Simulation, kind: str) -> None:
    sim.add_fault("mm", kind)
    tensor = torch.ones(2, 2, device="xpu")
    with pytest.raises(RuntimeError) as caught:
        tensor @ tensor
    assert type(caught.value) is RuntimeError
    assert str(caught.value) == MESSAGES[kind]
    assert torch.equal((tensor @ tensor).cpu(), torch.full((2, 2), 2.0))


def test_every_kind_is_tested() -> None:
    assert set(KINDS) == {*MESSAGES, "out_of_memory", "device_lost", "nan", "wrong_result", "error", "hang", "stale"}


def test_out_of_memory(sim: Simulation) -> None:
    sim.add_fault("convolution", "out_of_memory")
    with pytest.raises(torch.OutOfMemoryError, match="XPU out of memory"):
        F.conv2d(torch.ones(1, 1, 3, 3, device="xpu"), torch.ones(1, 1, 3, 3, device="xpu"))


def test_any_message(sim: Simulation) -> None:
    sim.add_fault("exp", "error", message="could not create a primitive")
    with pytest.raises(RuntimeError, match="could not create a primitive"):
        torch.ones(1, device="xpu").exp()


@pytest.mark.parametrize(
    ("fields", "failing"),
    [
        ({}, [1]),
        ({"nth": 3}, [3]),
        ({"nth": 2, "times": 2}, [2, 3]),
        ({"nth": 4, "times": None}, [4, 5, 6]),
        ({"device": 0}, [1]),
        ({"device": 1, "times": None}, []),
    ],
)
def test_when(sim: Simulation, fields: dict[str, int], failing: list[int]) -> None:
    sim.add_fault("aten::exp*", "out_of_resources", **fields)
    tensor = torch.ones(1, device="xpu:0")
    seen = []
    for call in range(1, 7):
        try:
            tensor.exp()
        except RuntimeError:
            seen.append(call)
    assert seen == failing
    assert sim.statistics().faults_fired == (len(failing),)


@pytest.mark.parametrize("device", [0, 1])
def test_a_copy_between_devices_concerns_both(sim: Simulation, device: int) -> None:
    tensor = torch.ones(4, device="xpu:0")
    sim.add_fault("copy_", "out_of_resources", device=device)
    with pytest.raises(RuntimeError, match="OUT_OF_RESOURCES"):
        tensor.to("xpu:1")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operator": "convolutoin"}, "A fault's operator 'convolutoin' matches nothing"),
        ({"operator": "linear"}, "A fault's operator 'linear' matches nothing"),
        ({"operator": "view"}, "A fault's operator 'view' matches nothing"),
        ({"operator": "aten::mm.outt"}, "matches nothing"),
        ({"operator": "runtime::maloc"}, "matches nothing"),
        ({"operator": "mm", "device": 7}, "A fault's device must be one of the 2 simulated ones, from 0, not 7"),
    ],
)
def test_a_fault_that_can_never_happen_is_refused(sim: Simulation, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        sim.set_faults([Fault(kind="out_of_resources", **fields)])
    assert message in str(caught.value)
    assert sim.statistics().faults_fired == ()


@pytest.mark.parametrize(
    "operator", ["*", "aten::mm", "aten::mm.out", "convolution*", "runtime::*", "torchvision::nms"]
)
def test_a_fault_that_can_happen_is_taken(sim: Simulation, operator: str) -> None:
    sim.add_fault(operator, "out_of_resources", device=1)


@pytest.mark.parametrize("glob", ["view", "copy_", "empty*", "linear", "runtime::malloc", "expp"])
def test_an_operator_that_no_device_can_lack_is_refused(sim: Simulation, glob: str) -> None:
    with pytest.raises(BadConfig, match=r"A device's missing operator .* matches nothing"):
        sim.change_device(0, missing_operators=[glob])
    assert sim.devices[0].missing_operators == ()


def test_a_device_that_is_not_simulated_cannot_be_changed(sim: Simulation) -> None:
    for index in (2, -1):
        with pytest.raises(BadConfig, match=f"A device must be one of the 2 simulated ones, from 0, not {index}"):
            sim.change_device(index, total_bytes=1)


def fails(sim: Simulation, seed: int, calls: int = 200) -> list[int]:
    sim.set_faults([Fault(operator="exp", kind="out_of_resources", probability=0.3, seed=seed, times=None)])
    tensor = torch.ones(1, device="xpu")
    seen = []
    for call in range(calls):
        try:
            tensor.exp()
        except RuntimeError:
            seen.append(call)
    return seen


def test_probability_is_reproducible_by_its_seed(sim: Simulation) -> None:
    first = fails(sim, 1)
    assert first == fails(sim, 1)
    assert first != fails(sim, 2)
    assert math.isclose(len(first) / 200, 0.3, abs_tol=0.12)


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("runtime::malloc", lambda: torch.empty(4, device="xpu")),
        ("runtime::synchronize", lambda: torch.xpu.synchronize()),
        ("runtime::empty_cache", lambda: torch.xpu.empty_cache()),
        ("runtime::mem_get_info", lambda: torch.xpu.mem_get_info()),
        ("runtime::pin_memory", lambda: torch.empty(4, pin_memory=True)),
        ("copy_", lambda: torch.ones(4).to("xpu")),
        ("copy_", lambda: torch.ones(4, device="xpu").cpu()),
        ("_local_scalar_dense", lambda: torch.ones(1, device="xpu").item()),
        ("empty*", lambda: torch.zeros(4, device="xpu")),
    ],
)
def test_the_runtime_itself_can_fail(sim: Simulation, call: str, function: object) -> None:
    assert callable(function)
    function()
    sim.add_fault(call, "out_of_resources")
    with pytest.raises(RuntimeError, match="OUT_OF_RESOURCES"):
        function()
    function()


def test_missing_operator(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    sim.change_device(0, missing_operators=["exp"])
    monkeypatch.delenv("PYTORCH_ENABLE_XPU_FALLBACK", raising=False)
    tensor = torch.ones(4).to("xpu")
    with pytest.raises(NotImplementedError, match=r"'aten::exp' is not currently implemented for the XPU device"):
        tensor.exp()
    tensor.to("xpu:1").exp()


def test_missing_operator_falls_back_when_allowed(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    sim.change_device(0, missing_operators=["exp", "add_"])
    monkeypatch.setenv("PYTORCH_ENABLE_XPU_FALLBACK", "1")
    tensor = torch.ones(4).to("xpu")
    sim.reset_statistics()
    result = tensor.exp()
    tensor.add_(1)
    statistics = sim.statistics()
    assert result.device == torch.device("xpu:0")
    assert torch.equal(result.cpu(), torch.ones(4).exp())
    assert tensor.tolist() == [2, 2, 2, 2]
    assert statistics.devices[0].fell_back == {"aten::exp": 1, "aten::add_.Tensor": 1}
    assert statistics.devices[0].count("exp") == 0
    assert statistics.bytes_copied("device_to_host") == 32
    assert statistics.bytes_copied("host_to_device") == 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sdpa", ["flash", "math"])
def test_attention_that_is_missing_is_copied_there_and_back(
    sim: Simulation, monkeypatch: pytest.MonkeyPatch, sdpa: str, dtype: torch.dtype
) -> None:
    sim.change_device(0, missing_operators=["scaled_dot_product_attention"], sdpa=sdpa)
    monkeypatch.setenv("PYTORCH_ENABLE_XPU_FALLBACK", "1")
    query = torch.ones(1, 2, 4, 8, dtype=dtype).to("xpu")
    sim.reset_statistics()
    F.scaled_dot_product_attention(query, query, query)
    statistics = sim.statistics()
    assert statistics.devices[0].fell_back == {"aten::scaled_dot_product_attention": 1}
    assert statistics.devices[0].count("aten::*") == 0
    assert statistics.bytes_copied("device_to_host") == 3 * query.nbytes
    assert statistics.bytes_copied("host_to_device") == query.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_matrix_work_that_is_missing_is_copied_there_and_back(
    sim: Simulation, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    sim.change_device(0, missing_operators=["mm", "convolution"])
    monkeypatch.setenv("PYTORCH_ENABLE_XPU_FALLBACK", "1")
    square, image = torch.ones(4, 4, dtype=dtype).to("xpu"), torch.ones(1, 4, 4, 4, dtype=dtype).to("xpu")
    sim.reset_statistics()
    product = square @ square
    convolved = F.conv2d(image, image)
    statistics = sim.statistics()
    assert statistics.bytes_copied("device_to_host") == 2 * square.nbytes + 2 * image.nbytes
    assert statistics.bytes_copied("host_to_device") == product.nbytes + convolved.nbytes
    assert product.tolist() == [[4.0] * 4] * 4


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.zeros(2, dtype=torch.float64, device="xpu:1"),
        lambda: torch.ones(2, dtype=torch.float64).to("xpu:1"),
        lambda: torch.ones(2, device="xpu:1").double(),
        lambda: torch.ones(2, device="xpu:1").sum(dtype=torch.float64),
    ],
)
def test_fp64_on_a_device_without_it(function: object) -> None:
    assert callable(function)
    with pytest.raises(RuntimeError, match="Required aspect fp64 is not supported on the device"):
        function()


def test_fp16_on_a_device_without_it(sim: Simulation) -> None:
    sim.change_device(0, has_fp16=False)
    assert not torch.xpu.get_device_properties(0).has_fp16
    with pytest.raises(RuntimeError, match="Required aspect fp16 is not supported on the device"):
        torch.ones(2, device="xpu").half()


def test_bf16_matrix_work_on_a_device_without_it(sim: Simulation) -> None:
    sim.change_device(0, has_bf16=False)
    tensor = torch.ones(2, 2, device="xpu", dtype=torch.bfloat16)
    assert (tensor + 1).tolist() == [[2, 2], [2, 2]]
    with pytest.raises(RuntimeError, match="UR_RESULT_ERROR_INVALID_ARGUMENT"):
        tensor @ tensor
    assert torch.xpu.is_bf16_supported()
    assert not torch.xpu.is_bf16_supported(including_emulation=False)


def test_a_lost_device_stays_lost(xpu_sim_process: RunSnippet) -> None:
    answer = xpu_sim_process(
        """
        tensor, other = torch.ones(4, device="xpu:0"), torch.ones(4, device="xpu:1")
        event, stream = torch.xpu.Event(), torch.xpu.Stream()
        start, end = torch.xpu.Event(enable_timing=True), torch.xpu.Event(enable_timing=True)
        start.record()
        end.record()
        sim.add_fault("mul", "device_lost", nth=2)
        tensor * 2
        calls = {
            "the call itself": lambda: tensor * 2,
            "another operator": lambda: tensor + 1,
            "reading back": lambda: tensor.cpu(),
            "item": lambda: tensor[0].item(),
            "print": lambda: str(tensor),
            "a new tensor": lambda: torch.empty(4, device="xpu:0"),
            "a copy there": lambda: torch.ones(4).to("xpu:0"),
            "a copy to the other": lambda: tensor.to("xpu:1"),
            "empty_cache": torch.xpu.empty_cache,
            "synchronize": torch.xpu.synchronize,
            "mem_get_info": torch.xpu.mem_get_info,
            "pinned memory": lambda: torch.empty(4, pin_memory=True),
            "event": event.record,
            "stream": stream.synchronize,
            "a recorded event's query": end.query,
            "a recorded event": end.synchronize,
            "the time between events": lambda: start.elapsed_time(end),
            "waiting for an event": lambda: torch.xpu.Stream(device=1).wait_event(end),
            "a new stream": lambda: torch.xpu.Stream(),
            "any new stream": lambda: torch.Stream("xpu:0"),
            "accelerator": torch.accelerator.synchronize,
        }
        texts = {}
        for name, call in calls.items():
            try:
                call()
                texts[name] = "nothing"
            except RuntimeError as error:
                texts[name] = str(error)
        sim.clear_faults()
        try:
            tensor + 1
        except RuntimeError as error:
            texts["after the faults are cleared"] = str(error)
        answer([texts, (other + 1).tolist(), torch.xpu.get_device_name(0),
                [device.lost for device in sim.statistics().devices]])
        del tensor
        """,
        config={"devices": ["arc-b580", "arc-a770"]},
    )
    texts, other, name, lost = answer
    assert set(texts.values()) == {"level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"}
    assert len(texts) == 22
    assert other == [2, 2, 2, 2]
    assert "B580" in name
    assert lost == [True, False]


def test_full_memory_may_lose_the_device(xpu_sim_process: RunSnippet) -> None:
    answer = xpu_sim_process(
        """
        texts = []
        for size in (2 << 30, 16):
            try:
                torch.empty(size, dtype=torch.uint8, device="xpu")
            except RuntimeError as error:
                texts.append(str(error))
        answer(texts)
        """,
        config={"devices": [{"total_bytes": 4 << 30, "other_process_bytes": 3 << 30, "when_full": "device_lost"}]},
    )
    assert len(answer) == 2
    assert all("UR_RESULT_ERROR_DEVICE_LOST" in text for text in answer)


def test_a_device_that_hangs_answers_when_it_is_let_go_on(sim: Simulation) -> None:
    x, spare, other = (torch.ones(4, device=f"xpu:{index}") for index in (0, 0, 1))
    sim.add_fault("add", "hang", device=0)
    answers: list[list[float]] = []
    work = threading.Thread(target=lambda: answers.append((x + 1).cpu().tolist()), daemon=True)
    later = threading.Thread(target=lambda: answers.append((x * 3).cpu().tolist()), daemon=True)
    work.start()
    try:
        while not sim.statistics().devices[0].hanging:
            assert work.is_alive()
        later.start()
        assert (other + 1).tolist() == [2] * 4
        before = sim.statistics().devices[0].freed_while_hanging
        del spare
        assert sim.statistics().devices[0].freed_while_hanging == before + 1
        assert answers == []
    finally:
        sim.let_go_on(0)
    work.join(60)
    later.join(60)
    assert sorted(answers) == [[2] * 4, [3] * 4]
    assert not sim.statistics().devices[0].hanging


def test_a_stale_result_is_spoiled_by_the_next_emptying_unless_something_of_it_was_read(sim: Simulation) -> None:
    x = torch.ones(4, device="xpu:0")
    sim.add_fault("add", "stale", times=None)
    kept, spoiled, freed, other = x + 1, x + 2, x + 3, x * 5
    kept[0].item()
    del freed
    assert sim.statistics().faults_fired == (0,)
    torch.xpu.empty_cache()
    assert kept.tolist() == [2] * 4
    assert spoiled.isnan().all()
    assert other.tolist() == [5] * 4
    assert sim.statistics().faults_fired == (1,)
    sim.set_faults([Fault(operator="*", kind="stale", times=None)])
    read = x.cpu()
    torch.xpu.empty_cache()
    assert read.tolist() == [1] * 4, "what is on the host stays"
    sim.set_faults([Fault(operator="add", kind="stale", times=None)])
    late = x + 6
    assert late.tolist() == [7] * 4, "before the cache is emptied it is right"
    torch.xpu.empty_cache()
    assert late.tolist() == [7] * 4
