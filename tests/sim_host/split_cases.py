"""A placed model behind MultiGPU CFG Split on three devices of unequal speed, some of which fail; see worker.py."""

from __future__ import annotations

import argparse
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import comfy.model_management as model_management
import torch

from tests import xpu_sim
from tests.bench.split import run
from xpu_utils.host.running import split
from xpu_utils.host.running.batching import at_most
from xpu_utils.host.running.sampling import sample
from xpu_utils.recovery.jobs import Fault, subscribe
from xpu_utils.recovery.watch import PATIENCE

from .device_node_cases import ours
from .device_node_cases import split as shared

STEPS = 4
PATIENCE.least_seconds = 1.0  # three times that for what was never done

_time = threading.local()


def _now() -> float:
    return getattr(_time, "seconds", 0.0)


def _takes(seconds: dict[str, float], apply: Callable[..., Any], given: dict[str, Any]) -> torch.Tensor:
    """A model call that by the clock above takes so long for a condition on each device."""
    _time.seconds = _now() + seconds.get(str(given["input"].device), 1.0) * len(given["cond_or_uncond"])
    answer: torch.Tensor = apply(given["input"], given["timestep"], **given["c"])
    return answer


@functools.cache
def _shared(cards: int) -> Any:
    return shared(ours(0), cards)


def on(cards: int, seconds: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Any:
    """The model split, with what a condition takes on each device."""
    model = _shared(cards).clone()
    takes = {f"xpu:{index}": each for index, each in enumerate(seconds)}
    model.set_model_unet_function_wrapper(functools.partial(_takes, takes))
    return model


def _prompt(count: int, generator: torch.Generator) -> Any:
    return [[torch.randn(1, 77, 768, generator=generator), {"strength": 1 / (1 + number)}] for number in range(count)]


def told(model: Any, positive: int = 1, negative: int = 1) -> dict[str, Any]:
    """The picture, the notes of the report, and what failed."""
    generator, faults = torch.Generator().manual_seed(0), []
    prompts = {"positive": _prompt(positive, generator), "negative": _prompt(negative, generator)}
    latent = {"samples": torch.zeros(1, 4, 4, 4)}
    unsubscribe = subscribe(lambda _, record: faults.append(str(record)) if isinstance(record, Fault) else None)
    with mock.patch.object(split, "clock", _now):
        result, placement = sample(
            "KSampler", model, latent, "auto", "auto", seed=0, steps=STEPS, cfg=7.0, sampler_name="euler",
            scheduler="normal", denoise=1.0, **prompts,
        )  # fmt: skip
    unsubscribe()
    return {"picture": result["samples"].tolist(), "notes": placement.notes, "faults": faults}


def case_one_card_with_one_condition_a_call() -> dict[str, Any]:
    model = ours(0)
    with at_most(model.model, 1):
        return told(model)


def case_equal_cards() -> dict[str, Any]:
    return told(on(2))


def case_a_copy_of_half_the_speed() -> dict[str, Any]:
    return told(on(2, (1.0, 2.0)))


def case_a_copy_of_a_third_of_the_speed() -> dict[str, Any]:
    return told(on(2, (1.0, 3.0)))


def case_a_model_s_own_card_of_a_third_of_the_speed() -> dict[str, Any]:
    return told(on(2, (3.0, 1.0)))


def case_six_conditions_on_equal_cards() -> dict[str, Any]:
    return told(on(2), positive=4, negative=2)


def case_six_conditions_with_a_copy_of_half_the_speed() -> dict[str, Any]:
    return told(on(2, (1.0, 2.0)), positive=4, negative=2)


def case_without_us() -> dict[str, Any]:
    with mock.patch.dict("os.environ", XPU_NODES_DISABLE=split.HOOK):
        return told(on(2))


def _failing(device: int, kind: str, cards: int = 2, **when: Any) -> dict[str, Any]:
    model = on(cards)
    xpu_sim.current().add_fault("convolution", kind, device=device, **{"nth": 30, **when})
    with contextlib.ExitStack() as after:
        after.callback(xpu_sim.current().clear_faults)
        return told(model, positive=cards - 1)


def case_no_memory_on_the_copy_s_card() -> dict[str, Any]:
    return _failing(1, "out_of_memory")


def case_no_memory_on_the_model_s_own_card() -> dict[str, Any]:
    """At all, from there on."""
    return _failing(0, "out_of_memory", times=None)


def case_an_interrupt_on_the_copy_s_card() -> str:
    stops = [None]

    def interrupted(apply: Callable[..., Any], given: dict[str, Any]) -> torch.Tensor:
        if stops and given["input"].device.index == 1:
            stops.pop()
            raise model_management.InterruptProcessingException
        return _takes({}, apply, given)

    model = on(2)
    model.set_model_unet_function_wrapper(interrupted)
    try:
        told(model)
    except model_management.InterruptProcessingException:
        return "ended"
    return "went on"


def case_the_benchmark() -> tuple[int, str]:
    return run(argparse.Namespace(shape="tiny", steps=6, rounds=1, takes="0.01,0.02"))


def case_three_cards() -> dict[str, Any]:
    return told(on(3), positive=2)


def case_y_the_third_card_gives_no_answer() -> dict[str, Any]:
    """From here on in the order of their names: what is lost stays so."""
    return _failing(2, "hang", cards=3)


def case_y_z_the_lost_card_is_offered_again() -> dict[str, Any]:
    return told(on(3))


def case_z_the_model_s_own_card_is_lost() -> dict[str, Any]:
    return _failing(0, "device_lost")
