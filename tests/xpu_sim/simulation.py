"""The simulation of this process: installed once, steered and read while the program runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from . import build, torch_xpu
from .config import BadConfig, Config, Device, change
from .faults import DEVICE_LOST, KINDS, Fault
from .statistics import Statistics, name_matches, snapshot


class Simulation:
    """Handle on the simulated machine of this process. Made by `install`."""

    def __init__(self, core: Any, config: Config) -> None:
        self._core = core
        self._devices = list(config.devices)
        self._faults: tuple[Fault, ...] = ()
        self._can_be_missing = frozenset(core.cpu_kernels())
        self._can_fail = self._can_be_missing.union(core.written_kernels(), core.runtime_calls())
        self._check(config.devices, config.faults)
        for device in config.devices:
            core.add_device(_settings(core, device))
        core.install(DEVICE_LOST, not torch.ops.mkldnn._is_mkldnn_bf16_supported())
        torch_xpu.install(core, lambda: tuple(self._devices))
        self.set_faults(config.faults)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices as they are configured now."""
        return tuple(self._devices)

    def device(self, index: int) -> Device:
        """One device as it is configured now.

        Raises:
            BadConfig: there is no such device.
        """
        self._check_index(index, "A device")
        return self._devices[index]

    def change_device(self, index: int, **fields: Any) -> None:
        """Change fields of a device while it runs, such as `other_process_bytes` or `memory_info`."""
        self.restore_device(index, change(self.device(index), fields))

    def restore_device(self, index: int, device: Device) -> None:
        """Give a device another whole description; what it holds, and whether it is lost, stays."""
        self._check_index(index, "A device")
        self._check((device,), ())
        self._devices[index] = device
        self._core.change_device(index, _settings(self._core, device))

    def set_faults(self, faults: Iterable[Fault]) -> None:
        """Replace all faults; their calls are counted from here. A lost device stays lost.

        Raises:
            BadConfig: a fault that can never happen.
        """
        chosen = tuple(faults)
        self._check((), chosen)
        self._faults = chosen
        self._core.set_rules([fault.rule(self._core) for fault in self._faults])

    def add_fault(self, operator: str, kind: str, **fields: Any) -> None:
        """Add one fault; the ones that are set start counting anew."""
        self.set_faults((*self._faults, Fault(operator=operator, kind=kind, **fields)))

    def clear_faults(self) -> None:
        """Remove all faults."""
        self.set_faults(())

    def let_go_on(self, index: int) -> None:
        """Have the calls that a hanging device did not answer go on as if nothing had been."""
        self._check_index(index, "A device")
        self._core.let_go_on(index)

    def statistics(self) -> Statistics:
        """Return a snapshot of all counters."""
        return snapshot(self._core)

    def reset_statistics(self) -> None:
        """Set operators, copies, allocations and CPU counts to zero; memory in use stays counted, its peak
        restarts."""
        self._core.reset_statistics()
        for index in range(self._core.device_count()):
            self._core.reset_peak(index)
            self._core.reset_accumulated(index)

    def _check(self, devices: Iterable[Device], faults: Iterable[Fault]) -> None:
        """Refuse what would silently do nothing."""
        for device in devices:
            for glob in device.missing_operators:
                _require_match(glob, self._can_be_missing, "A device's missing operator")
        for fault in faults:
            _require_match(fault.operator, self._can_fail, "A fault's operator")
            if fault.device is not None:
                self._check_index(fault.device, "A fault's device")

    def _check_index(self, index: int, what: str) -> None:
        if not 0 <= index < len(self._devices):
            raise BadConfig(f"{what} must be one of the {len(self._devices)} simulated ones, from 0, not {index}.")


_installed: Simulation | None = None


def install(config: Config | None = None) -> Simulation:
    """Give this process simulated devices, for its whole life.

    Raises:
        build.CannotSimulate: wrong torch, no compiler.
        RuntimeError: the process has a simulation already.
    """
    global _installed
    if _installed is not None:
        raise RuntimeError("This process has simulated XPUs already: change them with Simulation.change_device.")
    _installed = Simulation(build.load(), config or Config())
    return _installed


def current() -> Simulation:
    """Return the process's simulation.

    Raises:
        RuntimeError: there is none.
    """
    if _installed is None:
        raise RuntimeError(f"This process has no simulated XPU: call {__package__}.install() first.")
    return _installed


def _require_match(glob: str, names: Iterable[str], what: str) -> None:
    library, separator, _ = glob.partition("::")
    if separator and library not in ("aten", "runtime"):
        return  # another library's, which may be imported later
    if not any(name_matches(glob, name) for name in names):
        raise BadConfig(
            f"{what} {glob!r} matches nothing that it could concern: give the name of a kernel, such as "
            "convolution, and for an operator that PyTorch composes of others, such as linear, theirs."
        )


def _settings(core: Any, device: Device) -> Any:
    settings = core.DeviceSettings()
    same = {field.name for field in dataclasses.fields(Device)}
    for name in same & set(dir(settings)):
        value = getattr(device, name)
        setattr(settings, name, list(value) if isinstance(value, tuple) else value)
    kind = KINDS[device.when_full]
    settings.when_full = kind.effect
    settings.when_full_message = kind.message
    return settings
