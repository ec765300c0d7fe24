"""Which precisions and attention head dims a device computes right, found once per driver and PyTorch version.

The operations and tolerances are in `operations.py`. Those that are known to end the process on some
devices are left to the doctor, which runs them in a child. Checked on the simulated XPU, never on Intel hardware.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..machine.cache import cache_directory, keep, recall
from ..machine.devices import Device
from ..precision import dtype_of
from ..recovery.faults import FaultKind, classify
from .operations import ATTENTION, EMPTIED, HEAD_DIMS, MAY_ABORT, TOLERANCES, Result, check, operations

TIME_LIMIT_SECONDS = 5.0
"""A prompt waits for it. What is not tested by then is taken to be right, and the next process goes on from there."""

_ATTENTION = frozenset(ATTENTION.format(head_dim) for head_dim in HEAD_DIMS)


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """What a device computed, against the CPU."""

    device: str
    """Its name."""
    driver_version: str
    torch_version: str
    results: tuple[Result, ...]
    finished: bool
    """False where time ran out or the device failed for another reason."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that can be used: of "fp32", "bf16", "fp16".

        Attention that is wrong at some head dims rules none out, since it is computed another way there, nor does a
        cache that must not be emptied at once.
        """
        return tuple(precision for precision in TOLERANCES if self._usable(precision))

    def _usable(self, precision: str) -> bool:
        return self._wrong(precision) - {EMPTIED} < _ATTENTION

    def _wrong(self, precision: str) -> set[str]:
        return {result.name for result in self.results if result.precision == precision and not result.right}

    @property
    def keeps_results(self) -> bool:
        """Whether what the device has computed is still right when the cache was emptied after it."""
        return not any(EMPTIED in self._wrong(precision) for precision in TOLERANCES)

    def wrong_head_dims(self, precision: str) -> tuple[int, ...]:
        """Head dims at which `scaled_dot_product_attention` has a wrong answer in that precision."""
        wrong = self._wrong(precision)
        return tuple(head_dim for head_dim in HEAD_DIMS if ATTENTION.format(head_dim) in wrong)


def best_precision(device: Device, selftest: SelfTest) -> str:
    """What "auto" means on a device: the first precision of its profile that it has and computes right.

    Returns:
        "bf16", "fp16" or "fp32"; the CPU's is "fp32", which is what the stock nodes compute there.
    """
    if device.type == "cpu":
        return "fp32"
    has = {"bf16": device.bf16, "fp16": device.fp16, "fp32": True}
    choices = [name for name in device.profile.compute_dtypes if has[name] and name in selftest.precisions]
    return choices[0] if choices else "fp32"


class SelfTests:
    """The devices' results: known in this process, cached by an earlier one, or found when first asked for.

    Small kernels run on a device when it is first used, never at import. One that hangs costs the time limit.
    """

    def __init__(
        self, check: Callable[[str, str, str], Result] = check, time_limit_seconds: float = TIME_LIMIT_SECONDS
    ) -> None:
        self._check = check
        self._time_limit_seconds = time_limit_seconds
        self._known: dict[Device, SelfTest] = {}
        self._wrong_attention: set[tuple[str, int, torch.dtype | None]] = set()
        self._lock = threading.Lock()

    def of(self, device: Device) -> SelfTest:
        """What a device computes rightly."""
        if device.type == "cpu":
            return _result(device, (), finished=True)  # what every device is compared with
        with self._lock:
            if device not in self._known:
                cached = recall(_file(device), SelfTest)
                before = cached.results if cached else ()
                found = self._known[device] = cached if cached and cached.finished else self._run(device, before)
                self._wrong_attention |= {
                    (device.id, head_dim, dtype_of(precision))
                    for precision in TOLERANCES
                    for head_dim in found.wrong_head_dims(precision)
                }
            return self._known[device]

    def attends_wrongly(self, device: torch.device, head_dim: int, dtype: torch.dtype) -> bool:
        """Whether `scaled_dot_product_attention` is known to be wrong there. Asked in each attention call."""
        return bool(self._wrong_attention) and (str(device), head_dim, dtype) in self._wrong_attention

    def keeps_results(self, device: Device) -> bool:
        """Whether results there are known to outlive the emptying of the cache."""
        known = self._known.get(device)
        return device.profile.keeps_results and known is not None and known.keeps_results

    def _run(self, device: Device, before: tuple[Result, ...]) -> SelfTest:
        """Goes on after what an earlier process had time for."""
        results = list(before)
        tested = {(result.name, result.precision) for result in before}
        stop, finished = threading.Event(), threading.Event()

        def work() -> None:
            for name, precision in itertools.product(_names(), TOLERANCES):
                if (name, precision) in tested:
                    continue
                result = self._check(device.id, name, precision)
                if stop.is_set() or _circumstance(result):
                    return
                results.append(result)
            finished.set()

        started = time.perf_counter()
        # A daemon: a kernel that hangs must not keep the process from ending.
        thread = threading.Thread(target=work, name=f"self-test of {device.id}", daemon=True)
        thread.start()
        thread.join(self._time_limit_seconds)
        out_of_time = thread.is_alive()
        stop.set()
        found = _result(device, tuple(results), finished=finished.is_set())
        _log(device, found, time.perf_counter() - started)
        if found.finished or out_of_time:
            keep(_file(device), found, what=f"the self-test of {device.id}")
        return found


SELF_TESTS = SelfTests()
self_test = SELF_TESTS.of
attends_wrongly = SELF_TESTS.attends_wrongly
keeps_results = SELF_TESTS.keeps_results


def _result(device: Device, results: tuple[Result, ...], *, finished: bool) -> SelfTest:
    return SelfTest(device.name, device.driver_version, torch.__version__, results, finished)


def _circumstance(result: Result) -> bool:
    """Whether a failure tells nothing of how the device computes."""
    kinds = (FaultKind.OUT_OF_MEMORY, FaultKind.DEVICE_LOST)
    return bool(result.problem) and classify(RuntimeError(result.problem)) in kinds


def _names() -> list[str]:
    """The operations that are run in this process, the most used first."""
    return [name for name in operations() if name not in MAY_ABORT]


def _log(device: Device, found: SelfTest, seconds: float) -> None:
    for result in found.results:
        if not result.right:
            error = result.problem or f"error {result.relative_error:.2g}"
            usable = result.precision in found.precisions
            met = "it is computed another way there" if usable else f"auto avoids {result.precision} there"
            if result.name == EMPTIED:
                met = "something of everything there is read before that"
            text = "XPU Nodes: %s computes %s wrongly in %s (%s): %s."
            logging.warning(text, device.id, result.name, result.precision, error, met)
    if not found.finished:
        logging.warning(
            "XPU Nodes: the self-test of %s did not finish within %.1f s, what it did not reach is taken to be right.",
            device.id,
            seconds,
        )


def _file(device: Device) -> Path:
    """One file for each device model, driver, PyTorch and set of operations."""
    key = (device.name, device.driver_version, torch.__version__, _names(), TOLERANCES)
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return cache_directory() / f"self-test-{digest}.json"
