"""Weight streaming inside ComfyUI's own patcher and memory management, on a simulated XPU."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from tests import xpu_sim
from xpu_utils.weights.pinned import ALIGNMENT_BYTES, PinnedPool

from .streamed import DEVICE, HOST, lora, step, steps, stream_of, unload


@pytest.mark.parametrize("share", ["0%", "45%", "90%"])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_results_are_those_of_the_whole_model(build: Any, attach: Any, share: str, weight_dtype: torch.dtype) -> None:
    whole = build(weight_dtype)
    expected = step(whole)
    unload(whole)
    model = attach(build(weight_dtype), share)
    assert all(torch.equal(result, expected) for result in steps(model))
    assert stream_of(model).settled
    assert all(torch.equal(result, expected) for result in steps(model))
    unload(model)


def test_auto_keeps_everything_where_it_fits_and_streams_where_not(build: Any, attach: Any) -> None:
    model = attach(build())
    expected = step(model)
    assert stream_of(model) is None
    assert model.loaded_size() >= model.model_size()
    unload(model)
    free_bytes = model.model_size() * 3 // 4
    model.partially_load(DEVICE, free_bytes)  # as ComfyUI calls it with what is free
    assert all(torch.equal(step(model, loaded=True), expected) for _ in range(5))
    assert 0 < stream_of(model).resident_bytes < free_bytes
    assert model.loaded_size() <= free_bytes
    model.detach()


def test_a_clone_that_is_dropped_leaves_the_loaded_one_alone(build: Any, attach: Any) -> None:
    model = attach(build(), "45%")
    expected = steps(model)[-1]
    stream = stream_of(model)
    clone = model.clone()
    del clone
    assert stream_of(model) is stream
    assert torch.equal(step(model, loaded=True), expected)
    unload(model)


def test_a_clone_that_is_given_another_model_streams_that_one(build: Any, attach: Any) -> None:
    """As ComfyUI makes a model's copies for other devices."""
    model = attach(build(), "45%")
    expected = steps(model)[-1]
    copy = model.clone()
    copy.model = build().model
    assert all(torch.equal(result, expected) for patcher in (copy, model) for result in steps(patcher))
    assert stream_of(copy) is not stream_of(model)
    unload(model)


def test_what_one_stream_learnt_serves_the_next_of_the_same_shape(build: Any, attach: Any) -> None:
    first = attach(build(), "45%")
    expected = steps(first)[-1]
    unload(first)
    second = attach(build(), "45%")
    assert torch.equal(step(second), expected)
    assert stream_of(second).settled
    unload(second)


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float8_e4m3fn])
def test_what_is_not_resident_crosses_once_a_step_from_page_locked_memory(
    build: Any, attach: Any, sim: xpu_sim.Simulation, weight_dtype: torch.dtype
) -> None:
    model = attach(build(weight_dtype), "45%")
    model.add_patches(lora(model, 1), 0.8)
    steps(model)
    stream = stream_of(model)
    sim.reset_statistics()
    step(model, loaded=True)
    copies = [copy for copy in sim.statistics().copies if copy.direction == "host_to_device" and copy.pinned]
    padding_bytes = 2 * ALIGNMENT_BYTES * sum(1 for _ in model.model.diffusion_model.modules())
    streamed_bytes = stream.total_bytes - stream.resident_bytes
    assert streamed_bytes - padding_bytes < sum(copy.bytes for copy in copies) <= streamed_bytes
    assert len({copy.host_address for copy in copies}) == len(copies)
    assert len({copy.stream for copy in copies}) == 1
    unload(model)


def test_unpatched_to_the_host_nothing_of_it_stays_on_the_device(build: Any, attach: Any) -> None:
    before_bytes = torch.xpu.memory_allocated(0)
    model = attach(build(), "45%")
    (expected, *_) = steps(model)
    model.unpatch_model(HOST)
    assert torch.xpu.memory_allocated(0) == before_bytes
    assert all(torch.equal(result, expected) for result in steps(model))
    unload(model)


def test_the_stock_patcher_of_the_same_weights_works_after_ours_and_before(build: Any, attach: Any) -> None:
    stock = build()
    expected = step(stock)
    model = attach(stock, "45%")
    for patcher in (model, stock, model, stock):
        assert all(torch.equal(result, expected) for result in steps(patcher, 3))
    unload(stock)


def test_comfyui_gets_the_memory_it_asks_for_and_the_model_carries_on(build: Any, attach: Any) -> None:
    import comfy.model_management

    model = attach(build(), "90%")
    (expected, *_) = steps(model)
    before = torch.xpu.memory_allocated(0)
    wanted = model.model_size() // 2
    freed = model.partially_unload(HOST, wanted)
    assert freed >= wanted
    assert before - torch.xpu.memory_allocated(0) >= wanted
    assert torch.equal(step(model, loaded=True), expected)
    free = comfy.model_management.get_free_memory(DEVICE)
    comfy.model_management.free_memory(free + 2 * model.loaded_size(), DEVICE)
    assert not comfy.model_management.loaded_models()
    assert torch.equal(step(model), expected)
    unload(model)


def test_what_is_asked_for_before_a_stream_has_settled_comes_off_its_budget(build: Any, attach: Any) -> None:
    model = attach(build(), "60%", lessons={})
    step(model)
    budget = stream_of(model).budget_bytes
    model.partially_unload(HOST, 1 << 20)
    assert stream_of(model).budget_bytes == budget - (1 << 20)
    unload(model)


def test_two_models_take_turns(build: Any, attach: Any) -> None:
    first, second = attach(build(), "20%"), attach(build(torch.bfloat16), "60%")
    expected = [step(first), step(second)]
    for _ in range(4):
        assert torch.equal(step(first), expected[0])
        assert torch.equal(step(second), expected[1])
    unload(first)


@pytest.mark.parametrize("kind", [Exception, BaseException])  # of ComfyUI's interrupt, in older and newer versions
def test_an_interrupted_step_leaves_a_model_that_works_and_no_thread(
    build: Any, attach: Any, kind: type[BaseException]
) -> None:
    stop = type("Stop", (kind,), {})
    whole, pool = build(), PinnedPool(1 << 30)
    expected = step(whole)
    unload(whole)
    model = attach(build(), "20%", pool=pool, lessons={})

    def interrupt(*_: Any) -> None:
        raise stop

    for loaded in (False, True, True):
        handle = model.model.diffusion_model.middle_block[1].proj_in.register_forward_pre_hook(interrupt)
        with pytest.raises(stop):
            step(model, loaded=loaded)
        handle.remove()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("xpu-bounce")]
        assert loaded or pool.used_bytes == 0  # what streams is locked from the second step on
        assert torch.equal(step(model, loaded=True), expected)
    unload(model)


def test_where_nothing_can_be_locked_weights_stream_from_where_they_are(build: Any, attach: Any) -> None:
    patched, full = build(), PinnedPool(1 << 10)
    patched.add_patches(lora(patched, 3))
    expected = step(patched)
    unload(patched)
    model = attach(build(), "10%", pool=full)
    model.add_patches(lora(model, 3))
    assert all(torch.equal(result, expected) for result in steps(model))
    assert stream_of(model).settled
    assert full.used_bytes == 0
    unload(model)


def test_a_lost_device_costs_no_streamed_weight(
    build: Any, attach: Any, sim: xpu_sim.Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpu_utils.host.streaming import abandon
    from xpu_utils.recovery import faults

    model = attach(build(), "0%")
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    model.add_patches(lora(model, 4))
    steps(model)
    abandon(model)
    assert stream_of(model) is not None, "its device is there"
    monkeypatch.setitem(faults._lost, str(DEVICE), "device lost")
    abandon(model)
    for key, value in model.model.state_dict().items():
        if value.device == HOST:
            assert torch.equal(value, before[key])
    assert sum(value.device == HOST for value in model.model.state_dict().values()) > 50
    model.detach()


@pytest.mark.parametrize("resident", ["auto", "45%"])
def test_it_stands_down_where_it_has_nothing_to_do(build: Any, attach: Any, resident: str) -> None:
    from xpu_utils.host import hooks, streaming

    model = build()
    model.load_device = HOST
    assert type(attach(model, resident)) is type(model)
    (hook,) = [hook for hook in hooks.hooks() if hook.name == streaming.HOOK]
    assert hook.state is hooks.State.STOOD_DOWN
    assert "CPU" in hook.reason


def test_memory_shared_with_the_host_is_never_streamed_through(build: Any, attach: Any) -> None:
    model = attach(build(), "10%", integrated=True)
    step(model)
    assert stream_of(model) is None
    assert model.loaded_size() == model.model_size()
    unload(model)
