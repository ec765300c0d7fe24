"""LoRAs and other patches on weights that stream, on ComfyUI's real patcher."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .streamed import DEVICE, lora, step, steps, unload


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_a_lora_is_applied_once_and_taken_off_again(build: Any, attach: Any, weight_dtype: torch.dtype) -> None:
    whole = build(weight_dtype)
    plain = step(whole)
    patched_whole = whole.clone()
    patched_whole.add_patches(lora(whole, 1), 0.8)
    expected = step(patched_whole)
    unload(whole)
    model = attach(build(weight_dtype), "30%")
    patched = model.clone()
    patched.add_patches(lora(model, 1), 0.8)
    assert not torch.equal(plain, expected)
    assert all(torch.equal(result, plain) for result in steps(model))
    assert all(torch.equal(result, expected) for result in steps(patched))
    assert not any(getattr(module, "weight_function", []) for module in model.model.modules())  # none waits for a step
    assert all(torch.equal(result, plain) for result in steps(model))
    unload(model)
    original = build(weight_dtype).model.state_dict()
    assert all(torch.equal(value, original[key]) for key, value in model.model.state_dict().items())


def test_a_lora_is_off_the_weights_after_an_unload_and_on_once_after_the_next_load(build: Any, attach: Any) -> None:
    model = attach(build(), "60%")
    patched = model.clone()
    patched.add_patches(lora(model, 1), 0.8)
    expected = steps(patched)[-1]
    unload(patched)
    original = build().model.state_dict()
    assert all(torch.equal(value, original[key]) for key, value in model.model.state_dict().items())
    assert all(torch.equal(result, expected) for result in steps(patched))
    unload(patched)


def test_hooked_weights_are_written_when_no_copy_reads_them(
    build: Any, attach: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach(build(), "45%")
    steps(model)
    waited: list[Any] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    with model.use_ejected():
        assert not waited
    model.hook_patches = {"a hook": {"diffusion_model.out.2.weight": []}}
    with model.use_ejected():
        assert waited == [DEVICE]
    model.hook_patches = {}
    unload(model)


def test_patches_added_while_loaded_take_effect(build: Any, attach: Any) -> None:
    whole = build()
    whole.add_patches(lora(whole, 2))
    expected = step(whole)
    unload(whole)
    model = attach(build(), "45%")
    steps(model)
    model.add_patches(lora(model, 2))
    assert all(torch.equal(result, expected) for result in steps(model))
    unload(model)


def test_weights_patched_where_they_are_can_be_read_and_stream_again(build: Any, attach: Any) -> None:
    whole = build()
    whole.add_patches(lora(whole, 2))
    expected = step(whole)
    unload(whole)
    model = attach(build(), "45%")
    patches = lora(model, 2)
    before = {key: model.model.state_dict()[key].clone() for key in patches}
    model.add_patches(patches)
    model.patch_model()  # names no device
    now = model.model.state_dict()
    assert all(torch.allclose(now[key], before[key] + patches[key][1][0], atol=1e-6) for key in patches)
    model.unpatch_model()
    assert all(torch.equal(result, expected) for result in steps(model))
    model.patch_model()  # while it streams
    assert all(torch.equal(result, expected) for result in steps(model))
    unload(model)
