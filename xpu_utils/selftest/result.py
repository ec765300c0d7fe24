"""Which precisions and attention head dims a device computes right, found once per driver and PyTorch version.

What a placement needs is tested before it, a head dim when attention first has it: each kernel costs the time to load
it, which a test of all of them would add to the first prompt. What was found is kept result by result. The operations
and tolerances are in `operations.py`; those that are known to end the process on some devices are left to the doctor,
which runs them in a child. Checked on the simulated XPU and on CUDA, never on Intel hardware.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from ..machine.cache import cache_directory, keep, recall
from ..machine.devices import Device
from ..precision import name_of
from .attention import Attending, AttentionTimes, ShapeClass, class_of, measure_attention
from .operations import ATTENTION, EMPTIED, HEAD_DIMS, MAY_ABORT, TOLERANCES, Result, check, is_circumstance, operations

TIME_LIMIT_SECONDS = 5.0
"""A prompt waits for it. What is not tested by then is taken to be right, and the next process goes on from there."""

_ATTENTION = tuple(ATTENTION.format(head_dim) for head_dim in HEAD_DIMS)
_COMMON = ATTENTION.format(64)
"""Most models' head dim; only where it is wrong, it matters whether any other is right."""

_EMPTYING = (EMPTIED, "fp32")

Computes = Callable[[Device, str], bool]
"""Whether a device computes right in a precision."""


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """What a device computed, against the CPU."""

    device: str
    """Its name."""
    driver_version: str
    torch_version: str
    results: tuple[Result, ...]
    attention: tuple[AttentionTimes, ...] = ()


class _Known:
    """What is known of one device, driver and PyTorch."""

    def __init__(self, kept: SelfTest | None) -> None:
        self.results = {(result.name, result.precision): result for result in kept.results} if kept else {}
        self.attention = {times.shapes: times for times in kept.attention} if kept else {}


def best_precision(device: Device, computes: Computes) -> str:
    """What "auto" means on a device: the first precision of its profile that it has and computes right.

    Returns:
        "bf16", "fp16" or "fp32"; the CPU's is "fp32", which is what the stock nodes compute there.
    """
    if device.type == "cpu":
        return "fp32"
    has = {"bf16": device.bf16, "fp16": device.fp16, "fp32": True}
    choices = (name for name in device.profile.compute_dtypes if has[name] and computes(device, name))
    return next(choices, "fp32")


class SelfTests:
    """The devices' results: known in this process, cached by an earlier one, or found when first asked for.

    Small kernels run on a device when it is first used, never at import. One that hangs costs the time limit.
    """

    def __init__(
        self,
        check: Callable[[str, str, str], Result] = check,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        measure: Callable[..., AttentionTimes | Result] = measure_attention,
    ) -> None:
        self._check = check
        self._measure = measure
        self._time_limit_seconds = time_limit_seconds
        self._known: dict[Path, _Known] = {}
        self._attends_by: dict[tuple[str, ShapeClass], Attending] = {}
        self._attends_wrongly: dict[tuple[str, int, torch.dtype], bool] = {}
        self._lock = threading.Lock()

    def computes(self, device: Device, precision: str) -> bool:
        """Whether a device computes "fp32", "bf16" or "fp16" right.

        Attention that is wrong at some head dims rules none out, since it is computed another way there.
        """
        if device.type == "cpu":
            return True  # what every device is compared with
        wrong = self._wrong(device, precision, _needed())
        return not wrong or (wrong == {_COMMON} and self._wrong(device, precision, _ATTENTION) < {*_ATTENTION})

    def attends_wrongly(self, device: Device, head_dim: int, dtype: torch.dtype) -> bool:
        """Whether `scaled_dot_product_attention` is wrong on an accelerator. Asked in each attention call."""
        key = (device.id, head_dim, dtype)
        if key not in self._attends_wrongly:
            precision, name = name_of(dtype), ATTENTION.format(head_dim)
            tested = precision in TOLERANCES and name in _ATTENTION
            self._attends_wrongly[key] = tested and bool(self._wrong(device, precision, (name,)))
        return self._attends_wrongly[key]

    def attends_by(
        self,
        device: Device,
        q_shape: Sequence[int],
        k_shape: Sequence[int],
        dtype: torch.dtype,
        *,
        masked: bool,
        most_bytes: int,
    ) -> Attending:
        """The way that measured fastest on an accelerator for shapes like these. Asked in each attention call.

        Args:
            q_shape, k_shape: (batch, heads, tokens, dim).
            most_bytes: what the scores may take.
        """
        shapes = class_of(q_shape, k_shape, name_of(dtype), masked=masked)
        if shapes is None:
            return Attending.OWN
        key = (device.id, shapes)
        if key not in self._attends_by:
            self._attends_by[key] = self._fastest(device, shapes, q_shape, k_shape, most_bytes)
        return self._attends_by[key]

    def attention(self, device: Device) -> tuple[AttentionTimes, ...]:
        """What was measured there, by this process or an earlier one."""
        with self._lock:
            return tuple(self._known_of(device).attention.values())

    def keeps_results(self, device: Device) -> bool:
        """Whether results there are known to outlive the emptying of the cache; see `test_emptying`."""
        known = self._known.get(_file(device))
        result = known.results.get(_EMPTYING) if known else None
        return device.profile.keeps_results and result is not None and result.right

    def test_emptying(self, device: Device) -> None:
        """Tests, unless it is known, whether results outlive the emptying of the cache; what is there may not."""
        name, precision = _EMPTYING
        self._wrong(device, precision, (name,))

    def _wrong(self, device: Device, precision: str, names: Iterable[str]) -> set[str]:
        """Those of some operations that the device computes wrongly, after testing what is not known yet."""
        with self._lock:
            known = self._known_of(device)
            missing = [name for name in names if (name, precision) not in known.results]
            if missing:
                self._run(device, missing, precision, known)
            found = known.results
            return {name for name in names if (name, precision) in found and not found[name, precision].right}

    def _fastest(
        self, device: Device, shapes: ShapeClass, q_shape: Sequence[int], k_shape: Sequence[int], most_bytes: int
    ) -> Attending:
        with self._lock:
            known = self._known_of(device)
            if shapes not in known.attention:
                measure = functools.partial(self._measure, device.id, shapes, q_shape, k_shape, most_bytes)
                for times in self._within_limit(device, [measure]):
                    if isinstance(times, AttentionTimes):
                        known.attention[shapes] = times
                        logging.info("XPU Nodes: %s attends by %s (%s).", device.id, times.fastest.value, shapes)
                self._keep(device, known)
            return known.attention[shapes].fastest if shapes in known.attention else Attending.OWN

    def _known_of(self, device: Device) -> _Known:
        file = _file(device)
        if file not in self._known:
            self._known[file] = _Known(recall(file, SelfTest))
        return self._known[file]

    def _run(self, device: Device, names: list[str], precision: str, known: _Known) -> None:
        """Tests operations, as far as there is time and the device is well, and keeps what was found."""
        started = time.perf_counter()
        work = [functools.partial(self._check, device.id, name, precision) for name in names]
        results = tuple(result for result in self._within_limit(device, work) if isinstance(result, Result))
        known.results |= {(result.name, result.precision): result for result in results}
        _log(device, results, unfinished=len(results) < len(names), seconds=time.perf_counter() - started)
        if results:
            self._keep(device, known)

    def _within_limit(
        self, device: Device, work: Sequence[Callable[[], Result | AttentionTimes]]
    ) -> tuple[Result | AttentionTimes, ...]:
        """What the first of these found, up to the time limit or to what tells nothing of the device."""
        found: list[Result | AttentionTimes] = []
        stop = threading.Event()

        def go_on() -> None:
            for test in work:
                result = test()
                if stop.is_set() or (isinstance(result, Result) and is_circumstance(result.problem)):
                    return
                found.append(result)

        # A daemon: a kernel that hangs must not keep the process from ending.
        thread = threading.Thread(target=go_on, name=f"self-test of {device.id}", daemon=True)
        thread.start()
        thread.join(self._time_limit_seconds)
        stop.set()
        return tuple(found)

    def _keep(self, device: Device, known: _Known) -> None:
        results, attention = tuple(known.results.values()), tuple(known.attention.values())
        everything = SelfTest(device.name, device.driver_version, torch.__version__, results, attention)
        keep(_file(device), everything, what=f"the self-test of {device.id}")


SELF_TESTS = SelfTests()
computes = SELF_TESTS.computes
attends_by = SELF_TESTS.attends_by
attends_wrongly = SELF_TESTS.attends_wrongly
keeps_results = SELF_TESTS.keeps_results
test_emptying = SELF_TESTS.test_emptying


@functools.cache
def _needed() -> tuple[str, ...]:
    """What is tested before a placement; what may abort is not run in this process."""
    left = {*MAY_ABORT, *_ATTENTION, EMPTIED} - {_COMMON}
    return tuple(name for name in operations() if name not in left)


def _log(device: Device, results: Iterable[Result], *, unfinished: bool, seconds: float) -> None:
    for result in results:
        if not result.right:
            error = result.problem or f"error {result.relative_error:.2g}"
            attends = result.name in _ATTENTION
            met = "it is computed another way there" if attends else f"auto avoids {result.precision} there"
            if result.name == EMPTIED:
                met = "something of everything there is read before that"
            text = "XPU Nodes: %s computes %s wrongly in %s (%s): %s."
            logging.warning(text, device.id, result.name, result.precision, error, met)
    if unfinished:
        logging.warning(
            "XPU Nodes: the self-test of %s did not finish within %.1f s, what it did not reach is taken to be right.",
            device.id,
            seconds,
        )


def _file(device: Device) -> Path:
    """One file for each device model, driver, PyTorch and set of operations."""
    key = (device.name, device.driver_version, torch.__version__, sorted(operations()), TOLERANCES)
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return cache_directory() / f"self-test-{digest}.json"
