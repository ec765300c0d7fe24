"""Which formats of weights a device multiplies in by itself: found once per driver and PyTorch version, and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ..machine.cache import cache_directory, keep, recall
from ..machine.devices import Device
from .products import FORMATS, Product, Way, check_product

TIME_LIMIT_SECONDS = 20.0
"""A prompt waits for it, once; what has not ended by then has no gate."""
UNENDED = "its test did not end"
"""Kept before a test: a driver that ends the process in it is not asked a second time."""


@dataclasses.dataclass(frozen=True)
class Gates:
    """What a device computed."""

    device: str
    """Its name."""
    driver_version: str
    torch_version: str
    products: tuple[Product, ...]


class GateTests:
    """The devices' products: known in this process, kept by an earlier one, or found when first asked for."""

    def __init__(
        self, check: Callable[[Device, str], Product] = check_product, time_limit_seconds: float = TIME_LIMIT_SECONDS
    ) -> None:
        self._check = check
        self._time_limit_seconds = time_limit_seconds
        self._known: dict[Path, dict[str, Product]] = {}
        self._lock = threading.Lock()

    def product(self, device: Device, name: str) -> Product:
        """What came of a format of `FORMATS` on a device; tested if that is not known yet."""
        with self._lock:
            known = self._recalled(device)
            if name not in known:
                known[name] = Product(name, problem=UNENDED)
                self._keep(device, known)
                known[name] = self._tested(device, name) or known[name]
                self._keep(device, known)
                logging.info("XPU Nodes: %s, %s.", device.id, known[name])
            return known[name]

    def known(self, device: Device) -> tuple[Product, ...]:
        """What is known of a device; tests nothing."""
        with self._lock:
            return tuple(self._recalled(device).values())

    def is_open(self, device: Device, name: str) -> bool:
        """Whether a device's own product is right, and faster than that of what the weights stand for."""
        return device.type != "cpu" and self.product(device, name).way is Way.NATIVE

    def _recalled(self, device: Device) -> dict[str, Product]:
        file = _file(device)
        if file not in self._known:
            kept = recall(file, Gates)
            self._known[file] = {product.format: product for product in kept.products} if kept else {}
        return self._known[file]

    def _keep(self, device: Device, known: dict[str, Product]) -> None:
        gates = Gates(device.name, device.driver_version, torch.__version__, tuple(known.values()))
        keep(_file(device), gates, what=f"what {device.id} multiplies in")

    def _tested(self, device: Device, name: str) -> Product | None:
        """None where it does not end in time."""
        found: list[Product] = []
        # A daemon: a kernel that hangs must not keep the process from ending.
        thread = threading.Thread(target=lambda: found.append(self._check(device, name)), daemon=True)
        thread.start()
        thread.join(self._time_limit_seconds)
        return found[0] if found else None


GATE_TESTS = GateTests()
product = GATE_TESTS.product
known = GATE_TESTS.known
is_open = GATE_TESTS.is_open


def as_text(devices: Iterable[Device]) -> str:
    """A line for each device of which something is known."""
    lines = ((device.id, known(device)) for device in devices)
    return "\n".join(f"{name}: {', '.join(map(str, found))}" for name, found in lines if found)


def _file(device: Device) -> Path:
    """One file for each device model, driver, PyTorch and set of formats."""
    key = (device.name, device.driver_version, torch.__version__, sorted(FORMATS))
    return cache_directory() / f"gates-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
