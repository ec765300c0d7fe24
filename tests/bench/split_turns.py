"""What `bench split` measures: one model on each of two cards alone, and its conditions shared out among both."""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import comfy.multigpu
import comfy.samplers
import torch

from xpu_utils.host import hooks
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.running.sampling import place_model
from xpu_utils.host.running.split import HOOK

from .stream_turns import Shape, build, sample


@dataclasses.dataclass
class Way:
    """One way of computing, and what it gave."""

    name: str
    patcher: Any
    evenly: bool = False
    """Shared out as ComfyUI does it."""
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Mean seconds of a step, one value a round."""
    latent: torch.Tensor | None = None

    @property
    def seconds_per_step(self) -> float:
        return statistics.median(self.seconds)


def measure(
    shape: Shape, devices: Sequence[str], *, steps: int, rounds: int, takes: Mapping[str, float]
) -> tuple[list[Way], bool]:
    """The ways taking turns, and whether both ways of sharing out gave the same bits.

    Args:
        devices: two accelerators.
        takes: seconds that a condition takes at least, by device, for simulated ones.
    """
    first = torch.device(devices[0])
    model = build(shape, first)
    model.cached_patcher_init = (build, (shape, first))
    model.set_model_unet_function_wrapper(functools.partial(_at_least, takes))
    alone = [place_model(model, placement_for(device, "auto"))[0] for device in devices]
    shared = comfy.multigpu.create_multigpu_deepclones(alone[0], len(devices))
    ways = [Way(f"{device} alone", patcher) for device, patcher in zip(devices, alone, strict=True)]
    ways += [Way("both, evenly (ComfyUI)", shared, evenly=True), Way("both, by speed", shared)]
    for _ in range(rounds):
        for way in ways:
            off = {hooks.DISABLE_VARIABLE: HOOK} if way.evenly else {}
            with mock.patch.dict(os.environ, off):
                way.latent, seconds = sample(way.patcher, shape, steps, comfy.samplers.CFGGuider)
            way.seconds.append(seconds)
    even, by_speed = (way.latent for way in ways[2:])
    return ways, even is not None and by_speed is not None and torch.equal(even, by_speed)


def _at_least(takes: Mapping[str, float], apply: Callable[..., Any], given: dict[str, Any]) -> torch.Tensor:
    ends = time.perf_counter() + takes.get(str(given["input"].device), 0.0) * len(given["cond_or_uncond"])
    answer: torch.Tensor = apply(given["input"], given["timestep"], **given["c"])
    time.sleep(max(0.0, ends - time.perf_counter()))
    return answer
