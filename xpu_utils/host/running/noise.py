"""Noise that samplers draw on the way: where stock ComfyUI draws it, or on the host for the same on every device.

While a run's state is on the host, a sampler would draw from the host's generator. For a run that asks for ComfyUI's
noise, the two of ComfyUI's functions that samplers draw with are given the device that the run began on.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...recovery.faults import LOSSES, is_lost
from ...recovery.ladder import Failure
from ...recovery.watch import watched
from ..recovery.lost import lose_dead
from ..target import HOST

AS_COMFYUI = "xpu_nodes.noise_as_comfyui"
"""Attachment key under which a patcher says that its runs draw noise where ComfyUI does."""

AHEAD_BYTES = 256 << 20
"""Most host memory for noise that is drawn before it is asked for."""

Draw = Callable[[Any, Any], torch.Tensor]
Work = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run whose noise comes from a device."""

    home: torch.device
    """Where it began."""
    now: Callable[[], torch.device]
    """Where its model is now."""
    steps: int

    @property
    def device(self) -> torch.device:
        return self.now() if is_lost(self.home) else self.home


_run: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("xpu_nodes_noise", default=None)


@contextlib.contextmanager
def drawn_where_comfyui_does(patcher: Any, steps: int) -> Iterator[None]:
    """Has samplers in the block draw on the device of the patcher, where that asks for it."""
    home = patcher.load_device
    if home == HOST or patcher.get_attachment(AS_COMFYUI) is None:
        yield
        return
    token = _run.set(_Run(home, lambda: patcher.load_device, max(1, steps)))
    try:
        yield
    finally:
        _run.reset(token)


def default_sampler(stock: Callable[..., Draw], x: torch.Tensor, seed: Any = None, **further: Any) -> Work | None:
    """What stands in for ComfyUI's `default_noise_sampler`: the work, or None where it goes its own way."""
    run = _run.get()
    if run is None or x.device != HOST:
        return None
    return lambda: _Sequence(lambda there: stock(there, seed=seed, **further), x, run, ahead=seed is not None)


class _Sequence:
    """One draw after another from a generator of its own, independent of what it is asked for."""

    def __init__(self, make: Callable[[torch.Tensor], Draw], x: torch.Tensor, run: _Run, *, ahead: bool) -> None:
        """
        Args:
            make: the stock noise sampler for a tensor like `x` on a device.
            ahead: nothing else draws from the generator. Then a step's noise is on the host before the device can be
                lost, which no other kind of device could draw again.
        """
        self._make = make
        self._x = x
        self._run = run
        self._batch = max(1, min(run.steps, AHEAD_BYTES // max(1, x.nbytes))) if ahead else 1
        self._device: torch.device | None = None
        self._draw: Draw | None = None
        self._drawn = 0
        self._ready: list[torch.Tensor] = []

    def __call__(self, sigma: Any, sigma_next: Any) -> torch.Tensor:
        if not self._ready:
            self._ready = _surviving(functools.partial(self._more, sigma, sigma_next))
            self._drawn += self._batch
        return self._ready.pop(0)

    def _more(self, sigma: Any, sigma_next: Any) -> list[torch.Tensor]:
        if self._draw is None or self._run.device != self._device:
            self._draw = self._begun()
        return [self._draw(sigma, sigma_next).to(HOST) for _ in range(self._batch)]

    def _begun(self) -> Draw:
        """Begins on the run's device, at the place in the sequence where another device of its kind was lost."""
        self._device = self._run.device
        if self._device == HOST:
            logging.warning("XPU Nodes: %s is lost, the host draws another noise from here on.", self._run.home)
        draw = self._make(self._x.to(self._device))
        for _ in range(self._drawn):
            draw(None, None)
        return draw


_trees: weakref.WeakKeyDictionary[Any, Callable[[], torch.device]] = weakref.WeakKeyDictionary()
"""Brownian trees on devices: what puts one onto the run's device, where it is not, and answers that."""


def tree(
    stock: Callable[..., None], made: Any, x: torch.Tensor, t0: torch.Tensor, t1: torch.Tensor, *seed: Any, **how: Any
) -> Work | None:
    """What stands in for the making of a `BatchedBrownianTree`: its noise follows from its seed alone."""
    run = _run.get()
    if run is None or x.device != HOST or how.get("cpu", True):
        return None
    held, planted = weakref.ref(made), [HOST]

    def plant() -> torch.device:
        device = run.device
        if device != planted[0]:
            stock(held(), x.to(device), t0.to(device), t1.to(device), *seed, **dict(how))
            planted[0] = device
        return device

    def work() -> None:
        _surviving(plant)
        _trees[made] = plant

    return work


def branch(stock: Callable[..., torch.Tensor], made: Any, t0: torch.Tensor, t1: torch.Tensor) -> Work | None:
    """What stands in for a draw from a tree."""
    plant = _trees.get(made)
    if plant is None:
        return None

    def draw() -> torch.Tensor:
        device = plant()
        return stock(made, t0.to(device), t1.to(device)).to(HOST)

    return lambda: _surviving(draw)


def _surviving(draw: Callable[[], Any]) -> Any:
    """Draws, and where that device is lost, draws on the one that the run goes on with."""
    run = _run.get()
    try:
        return watched(draw, HOST if run is None else run.device, "noise")
    except RuntimeError as error:
        failure = Failure.of(error)
    if failure.kind not in LOSSES or not lose_dead(failure.error):
        raise failure.error
    return draw()
