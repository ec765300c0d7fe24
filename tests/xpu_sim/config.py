"""What is simulated: devices, their limits and behaviour, faults. Read from a JSON file or built in Python."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .faults import Fault

GIB = 1 << 30
MAX_DEVICES = 8

MemoryInfo = Literal["works", "raises", "zero", "frozen"]
WhenFull = Literal["out_of_memory", "out_of_device_memory", "out_of_resources", "device_lost"]
Sdpa = Literal["flash", "math"]


class BadConfig(ValueError):
    """A configuration that cannot be simulated; the message is one sentence."""


@dataclass(frozen=True)
class Telemetry:
    """What `torch.xpu.temperature()` and its siblings answer.

    A value of None makes the function raise, as it does without the right to read the sensor.
    """

    temperature_c: float | None = 48.0
    clock_rate_mhz: float | None = 2400.0
    power_draw_w: float | None = 61.0
    utilization_percent: float | None = 12.0
    memory_usage_percent: float | None = 7.0
    device_memory_used: bool = True
    """False: `device_memory_used()` raises. Its value is what the device really holds."""


@dataclass(frozen=True)
class Device:
    """One simulated device. Defaults are those of an Arc B580."""

    name: str = "Intel(R) Arc(TM) B580 Graphics"
    architecture: int = 0x5004000
    """Value of SYCL's `ext::oneapi::experimental::architecture`, as in get_device_properties()."""
    device_id: int = 0xE20B
    driver_version: str = "1.13.35096"
    uuid: str = "8680 0be2 0000 0000 0300 0000 0000 0000"
    """16 bytes in hex; spaces are ignored."""
    compute_units: int = 160
    total_bytes: int = 12 * GIB
    max_allocation_bytes: int = 0
    """The largest single allocation; 0 means no limit. UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS=1 lifts it."""
    other_process_bytes: int = 0
    """Memory held by other processes: free memory is less, allocations fail earlier."""
    memory_info: MemoryInfo = "works"
    """`mem_get_info`: right, raising, answering 0 bytes free, or frozen at its first answer."""
    when_full: WhenFull = "out_of_memory"
    """What an allocation beyond the physically free memory raises. The allocator's own limit
    (`set_per_process_memory_fraction`) and the single-allocation limit are always an
    `torch.OutOfMemoryError`."""
    integrated: bool = False
    """Memory is the host's: free memory is never more than the host has available."""
    has_fp16: bool = True
    has_bf16: bool = True
    """False: matrix operators on bf16 raise what Xe-LP answers to them (error 45, invalid argument)."""
    has_fp64: bool = True
    """False (like has_fp16): a tensor of that type, or an operator on one, raises Intel's message."""
    has_xmx: bool = True
    sdpa: Sdpa = "flash"
    """`math` allocates the attention scores on the device, as where no fused kernel exists."""
    missing_operators: tuple[str, ...] = ()
    """Globs of operators without a kernel, such as "aten::_fft_r2c" or "upsample_*"."""
    telemetry: Telemetry = field(default_factory=Telemetry)

    def __post_init__(self) -> None:
        for name in ("total_bytes", "compute_units"):
            if getattr(self, name) <= 0:
                raise BadConfig(f"Device {self.name}: {name} must be more than 0.")
        for name in ("max_allocation_bytes", "other_process_bytes"):
            if getattr(self, name) < 0:
                raise BadConfig(f"Device {self.name}: {name} must not be negative.")
        try:
            length = len(bytes.fromhex(self.uuid))
        except ValueError:
            length = 0
        if length != 16:
            raise BadConfig(f"Device {self.name}: uuid must be 16 bytes in hex, not {self.uuid!r}.")


PRESETS: dict[str, Device] = {
    "arc-b580": Device(),
    "arc-a770": Device(
        name="Intel(R) Arc(TM) A770 Graphics",
        architecture=0x30DC000,
        device_id=0x56A0,
        uuid="8680 a056 0800 0000 0300 0000 0000 0000",
        compute_units=512,
        total_bytes=int(15.56 * GIB),
        max_allocation_bytes=4 * GIB,
        has_fp64=False,
    ),
    "lunar-lake": Device(
        name="Intel(R) Arc(TM) 140V GPU",
        architecture=0x5010000,
        device_id=0x64A0,
        uuid="8680 a064 0400 0000 0002 0000 0000 0000",
        compute_units=64,
        total_bytes=16 * GIB,
        memory_info="raises",
        integrated=True,
    ),
    "iris-xe": Device(
        name="Intel(R) Iris(R) Xe Graphics",
        architecture=0x3000000,
        device_id=0x9A49,
        uuid="8680 499a 0100 0000 0002 0000 0000 0000",
        compute_units=96,
        total_bytes=7 * GIB,
        max_allocation_bytes=4 * GIB,
        memory_info="raises",
        integrated=True,
        has_bf16=False,
        has_fp64=False,
        has_xmx=False,
        sdpa="math",
    ),
    "pvc": Device(
        name="Intel(R) Data Center GPU Max 1100",
        architecture=0x30F0700,
        device_id=0x0BDA,
        uuid="8680 da0b 2f00 0000 2900 0000 0000 0000",
        compute_units=448,
        total_bytes=48 * GIB,
    ),
}
"""Devices by name. Architecture numbers are SYCL's; memory and units are the products' published ones."""


@dataclass(frozen=True)
class Config:
    """The whole machine."""

    devices: tuple[Device, ...] = (Device(),)
    faults: tuple[Fault, ...] = ()
    control_port: int | None = None
    """A port on 127.0.0.1 for `control.py`; 0 chooses a free one, None opens none."""
    control_port_file: str | None = None
    """Where the chosen port is written, once it listens."""

    def __post_init__(self) -> None:
        if not 0 <= len(self.devices) <= MAX_DEVICES:
            raise BadConfig(f"At most {MAX_DEVICES} devices can be simulated, not {len(self.devices)}.")


def read(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        BadConfig: the file is missing, no JSON, or says something the simulation does not know.
    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadConfig(f"There is no configuration file {path}.") from None
    except json.JSONDecodeError as error:
        raise BadConfig(f"{path} is not JSON: {error}.") from None
    return parse(document)


def parse(document: object) -> Config:
    """Make a configuration of parsed JSON. A device is an object, or the name of a preset, or an
    object whose "preset" names the one it changes."""
    fields = _fields(document, Config, "The configuration")
    if "devices" in fields:
        fields["devices"] = tuple(parse_device(entry) for entry in _list(fields["devices"], "devices"))
    if "faults" in fields:
        fields["faults"] = parse_faults(fields["faults"])
    return Config(**fields)


def parse_device(document: object) -> Device:
    """Make one device of parsed JSON."""
    if isinstance(document, str):
        return _preset(document)
    if not isinstance(document, dict):
        raise BadConfig(f"A device must be the name of a preset or an object, not {document!r}.")
    base = _preset(document["preset"]) if "preset" in document else Device()
    return change(base, {key: value for key, value in document.items() if key != "preset"})


def change(device: Device, document: object) -> Device:
    """Return `device` with the fields in `document` (parsed JSON) changed."""
    fields = _fields(document, Device, "A device")
    if "missing_operators" in fields:
        globs = _list(fields["missing_operators"], "missing_operators")
        if not all(isinstance(glob, str) for glob in globs):
            raise BadConfig(f"missing_operators must be a list of strings, not {globs!r}.")
        fields["missing_operators"] = tuple(globs)
    if "telemetry" in fields and not isinstance(fields["telemetry"], Telemetry):
        changes = _fields(fields["telemetry"], Telemetry, "Telemetry")
        fields["telemetry"] = dataclasses.replace(device.telemetry, **changes)
    return dataclasses.replace(device, **fields)


def parse_faults(document: object) -> tuple[Fault, ...]:
    """Make faults of parsed JSON."""
    return tuple(_fault(entry) for entry in _list(document, "faults"))


def _fault(document: object) -> Fault:
    fields = _fields(document, Fault, "A fault")
    for name in ("operator", "kind"):
        if name not in fields:
            raise BadConfig(f"A fault needs {name!r}.")
    try:
        return Fault(**fields)
    except ValueError as error:
        raise BadConfig(str(error)) from None


def _preset(name: object) -> Device:
    if name not in PRESETS:
        raise BadConfig(f"There is no preset {name!r}: choose one of {', '.join(PRESETS)}.")
    return PRESETS[str(name)]


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise BadConfig(f"{name} must be a list, not {value!r}.")
    return list(value)


def _fields(document: object, cls: type, what: str) -> dict[str, Any]:
    """Check an object's keys and plain values against the annotations of a dataclass."""
    if not isinstance(document, dict):
        raise BadConfig(f"{what} must be an object, not {document!r}.")
    hints = typing.get_type_hints(cls)
    for key, value in document.items():
        if key not in hints:
            raise BadConfig(f"{what} has no field {key!r}: choose one of {', '.join(hints)}.")
        _check_value(f"{what}'s {key}", value, hints[key])
    return dict(document)


def _check_value(what: str, value: object, hint: Any) -> None:
    choices = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        if value not in choices:
            raise BadConfig(f"{what} must be one of {', '.join(map(str, choices))}, not {value!r}.")
        return
    if typing.get_origin(hint) is tuple:
        return  # its entries are checked where they are read
    allowed = [kind for kind in (choices or (hint,)) if isinstance(kind, type)]
    plain = [kind for kind in allowed if kind in (int, float, str, bool, type(None))]
    if len(plain) != len(allowed) or not plain:
        return  # an object of its own, checked where it is read
    if float in plain:
        plain.append(int)
    if not any(type(value) is kind for kind in plain):
        raise BadConfig(f"{what} must be {' or '.join(kind.__name__ for kind in allowed)}, not {value!r}.")
