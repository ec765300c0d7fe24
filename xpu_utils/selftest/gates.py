"""Which formats of weights a device multiplies in by itself: found once per driver and PyTorch version, and kept.

Each format has a file: processes that test at the same time, on cards of one kind, take nothing from each other.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from .. import int8
from ..machine.cache import cache_directory, keep, recall
from ..machine.devices import Device
from ..machine.last_words import began
from .operations import is_circumstance
from .products import FORMATS, HELD_IN_INT8, Product, Way, check_product

TIME_LIMIT_SECONDS = 20.0
"""A prompt waits for it, once; what has not ended by then has no gate."""
UNENDED = "its test did not end"
"""Kept of a driver that hangs in a test or ended a process in it: it is not asked a second time."""
FAILED = "its test failed, the log says how"
"""By an error of another kind than those of a missing kernel; nothing is kept of it."""


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a device computed in one format."""

    device: str
    """Its name."""
    driver_version: str
    torch_version: str
    product: Product


@dataclasses.dataclass(frozen=True)
class Mark:
    """Lies beside the gate's file while a process tests it."""

    pid: int
    process_began: float


class GateTests:
    """The devices' products: known in this process, kept by any, or found when first asked for."""

    def __init__(
        self, check: Callable[[Device, str], Product] = check_product, time_limit_seconds: float = TIME_LIMIT_SECONDS
    ) -> None:
        self._check = check
        self._time_limit_seconds = time_limit_seconds
        self._known: dict[Path, Product] = {}
        self._lock = threading.Lock()

    def product(self, device: Device, name: str) -> Product:
        """What came of a format of `FORMATS` on a device; tested if that is not known yet."""
        with self._lock:
            file = _file(device, name)
            found = self._recalled(file)
            if found is None:
                found = Product(name, problem=UNENDED) if _ended_a_process(file) else None
                with _marked(file) if found is None else contextlib.nullcontext():
                    found = self._known[file] = found or self._tested(device, name)
                    _keep(file, device, found)
                logging.info("XPU Nodes: %s, %s.", device.id, found)
            return found

    def known(self, device: Device) -> tuple[Product, ...]:
        """What is known of a device; tests nothing."""
        with self._lock:
            return tuple(filter(None, (self._recalled(_file(device, name)) for name in FORMATS)))

    def is_open(self, device: Device, name: str) -> bool:
        """Whether a device's own product is right, and faster than that of what the weights stand for."""
        return device.type != "cpu" and self.product(device, name).way is Way.NATIVE

    def _recalled(self, file: Path) -> Product | None:
        if file not in self._known and (kept := recall(file, Gate)) is not None:
            self._known[file] = kept.product
        return self._known.get(file)

    def _tested(self, device: Device, name: str) -> Product:
        found: list[Product] = []
        # A daemon: a kernel that hangs must not keep the process from ending.
        thread = threading.Thread(target=lambda: found.append(self._check(device, name)), daemon=True)
        thread.start()
        thread.join(self._time_limit_seconds)
        if found:
            return found[0]
        return Product(name, problem=UNENDED if thread.is_alive() else FAILED)


def _keep(file: Path, device: Device, product: Product) -> None:
    """Keeps what tells something of the device."""
    problem = product.unpack_problem or product.problem
    if problem != FAILED and not is_circumstance(problem):
        gate = Gate(device.name, device.driver_version, torch.__version__, product)
        keep(file, gate, what=f"how {device.id} multiplies in {product.format}")


@contextlib.contextmanager
def _marked(file: Path) -> Iterator[None]:
    """In the block others see that this process tests; what is left of that tells that it was ended there."""
    mark = file.with_suffix(f".{os.getpid()}.testing")
    keep(mark, Mark(os.getpid(), began(os.getpid())), what="what is being tested")
    remove = functools.partial(_remove, mark)
    atexit.register(remove)  # ComfyUI's end does not wait for the thread that is here
    try:
        yield
    finally:
        remove()
        atexit.unregister(remove)


def _ended_a_process(file: Path) -> bool:
    marks = {path: recall(path, Mark) for path in file.parent.glob(f"{file.stem}.*.testing")}
    left = [path for path, mark in marks.items() if mark is not None and began(mark.pid) != mark.process_began]
    for path in left:
        _remove(path)
    return bool(left)


def _remove(mark: Path) -> None:
    with contextlib.suppress(OSError):  # a folder that is no longer there, or not ours to write to
        mark.unlink(missing_ok=True)


GATE_TESTS = GateTests()
product = GATE_TESTS.product
known = GATE_TESTS.known
is_open = GATE_TESTS.is_open


def as_text(devices: Iterable[Device]) -> str:
    """A line for each device of which something is known."""
    lines = ((device.id, known(device)) for device in devices)
    return "\n".join(f"{name}: {', '.join(map(str, found))}" for name, found in lines if found)


def _file(device: Device, name: str) -> Path:
    """One for each device model, driver, PyTorch and format, and for each version of products of our own."""
    own = [int8.version()] if name.startswith(HELD_IN_INT8) else []
    key = [device.name, device.driver_version, torch.__version__, name, *own]
    return cache_directory() / f"gate-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
