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
from pathlib import Path

import torch

from ..machine.cache import cache_directory, keep, recall
from ..machine.devices import Device
from ..recovery.faults import FaultKind, classify
from . import operations as numeric
from .operations import ATTENTION, HEAD_DIMS, MAY_ABORT, TOLERANCES, Result

TIME_LIMIT_SECONDS = 5.0
"""A prompt waits for it. What is not tested by then is taken to be right, and the next process goes on from there."""


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
        """Precisions without a wrong answer: of "fp32", "bf16", "fp16"."""
        wrong = {result.precision for result in self.results if not result.right}
        return tuple(precision for precision in TOLERANCES if precision not in wrong)

    def head_dims(self, precision: str) -> tuple[int, ...]:
        """Head dims at which `scaled_dot_product_attention` has no wrong answer in that precision."""
        wrong = {result.name for result in self.results if result.precision == precision and not result.right}
        return tuple(head_dim for head_dim in HEAD_DIMS if ATTENTION.format(head_dim) not in wrong)


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


def self_test(device: Device) -> SelfTest:
    """The device's result: known in this process, cached by an earlier one, or found now.

    Runs small kernels on the device, so it is called when the device is first used, never at import. A device that
    hangs costs `TIME_LIMIT_SECONDS`.
    """
    if device.type == "cpu":
        return _result(device, (), finished=True)  # what every device is compared with
    with _lock:
        if device not in _known:
            cached = recall(_file(device), SelfTest)
            _known[device] = cached if cached and cached.finished else _run(device, cached.results if cached else ())
        return _known[device]


_known: dict[Device, SelfTest] = {}
_lock = threading.Lock()


def _result(device: Device, results: tuple[Result, ...], *, finished: bool) -> SelfTest:
    return SelfTest(device.name, device.driver_version, torch.__version__, results, finished)


def _run(device: Device, before: tuple[Result, ...]) -> SelfTest:
    """Goes on after what an earlier process had time for."""
    results = list(before)
    tested = {(result.name, result.precision) for result in before}
    stop, finished = threading.Event(), threading.Event()

    def work() -> None:
        for name, precision in itertools.product(_names(), TOLERANCES):
            if (name, precision) in tested:
                continue
            result = numeric.check(device.id, name, precision)
            if stop.is_set() or _circumstance(result):
                return
            results.append(result)
        finished.set()

    started = time.perf_counter()
    # A daemon: a kernel that hangs must not keep the process from ending.
    thread = threading.Thread(target=work, name=f"self-test of {device.id}", daemon=True)
    thread.start()
    thread.join(TIME_LIMIT_SECONDS)
    out_of_time = thread.is_alive()
    stop.set()
    found = _result(device, tuple(results), finished=finished.is_set())
    _log(device, found, time.perf_counter() - started)
    if found.finished or out_of_time:
        keep(_file(device), found, what=f"the self-test of {device.id}")
    return found


def _circumstance(result: Result) -> bool:
    """Whether a failure tells nothing of how the device computes."""
    kinds = (FaultKind.OUT_OF_MEMORY, FaultKind.DEVICE_LOST)
    return bool(result.problem) and classify(RuntimeError(result.problem)) in kinds


def _names() -> list[str]:
    """The operations that are run in this process, the most used first."""
    return [name for name in numeric.operations() if name not in MAY_ABORT]


def _log(device: Device, found: SelfTest, seconds: float) -> None:
    for result in found.results:
        if not result.right:
            error = result.problem or f"error {result.relative_error:.2g}"
            logging.warning(
                "XPU Nodes: %s computes %s wrongly in %s (%s): auto avoids %s there.",
                device.id,
                result.name,
                result.precision,
                error,
                result.precision,
            )
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
