"""What is known of each GPU architecture, as data that the user can override."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import re
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

GIB = 1 << 30

OVERRIDES_VARIABLE = "XPU_NODES_PROFILES"
"""Environment variable naming a JSON file: {"battlemage": {"memory_fraction": 0.9}, ...}."""


class Architecture(enum.Enum):
    """GPU architectures that are told apart; the value is the name shown to users."""

    ALCHEMIST = "Alchemist"
    BATTLEMAGE = "Battlemage"
    METEOR_LAKE = "Meteor/Arrow Lake"
    LUNAR_LAKE = "Lunar Lake"
    PANTHER_LAKE = "Panther Lake"
    XE_LP = "Xe-LP"
    DATA_CENTER_MAX = "Data Center Max"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Profile:
    """What is right for one architecture where the driver does not say it itself."""

    architecture: Architecture
    integrated: bool = False
    """Memory is shared with the host."""
    compute_dtypes: tuple[str, ...] = ("bf16", "fp16", "fp32")
    """Precisions the matrix units run natively, best first."""
    fp64: bool = False
    single_allocation_limit_bytes: int | None = None
    """Largest single allocation the driver grants; None where total memory is the only limit."""
    memory_fraction: float | None = 1.0
    """Share of total memory the allocator may take: makes running out an ordinary error (pytorch #190972)."""
    flash_head_dims: tuple[int, ...] = (64, 96, 128, 192)
    """Head dims with a fused attention kernel (torch-xpu-ops #3141); none where none can be relied on."""
    pad_head_dims: bool = False
    """Pad other head dims to the next of these. Not measured on Intel hardware yet, so nowhere the default."""


# The 4 GB limit: intel/unified-runtime #1245. No fused attention is relied on where it was seen to allocate its scores
# (A770: ComfyUI #7004, #8767) or on older and smaller matrix units. PCI ids below: the kernel's
# include/drm/intel/pciids.h.
PROFILES: dict[Architecture, Profile] = {
    profile.architecture: profile
    for profile in (
        Profile(Architecture.ALCHEMIST, single_allocation_limit_bytes=4 * GIB, flash_head_dims=()),
        Profile(Architecture.BATTLEMAGE),
        Profile(Architecture.METEOR_LAKE, integrated=True, single_allocation_limit_bytes=4 * GIB, flash_head_dims=()),
        Profile(Architecture.LUNAR_LAKE, integrated=True),
        Profile(Architecture.PANTHER_LAKE, integrated=True),
        Profile(
            Architecture.XE_LP,
            integrated=True,
            compute_dtypes=("fp16", "fp32"),
            single_allocation_limit_bytes=4 * GIB,
            flash_head_dims=(),
        ),
        Profile(Architecture.DATA_CENTER_MAX, fp64=True),
        Profile(Architecture.UNKNOWN, memory_fraction=None),
    )
}

_PCI_RANGES: tuple[tuple[int, int, Architecture], ...] = (
    (0x0BD0, 0x0BEF, Architecture.DATA_CENTER_MAX),
    (0x4600, 0x46FF, Architecture.XE_LP),
    (0x4905, 0x4909, Architecture.XE_LP),
    (0x4C80, 0x4C9F, Architecture.XE_LP),
    (0x5690, 0x56C2, Architecture.ALCHEMIST),
    (0x6420, 0x64FF, Architecture.LUNAR_LAKE),
    (0x7D00, 0x7DFF, Architecture.METEOR_LAKE),
    (0x9A40, 0x9AFF, Architecture.XE_LP),
    (0xA700, 0xA7FF, Architecture.XE_LP),
    (0xB080, 0xB0BF, Architecture.PANTHER_LAKE),
    (0xE200, 0xE2FF, Architecture.BATTLEMAGE),
    (0xFD80, 0xFD8F, Architecture.PANTHER_LAKE),
)

_NAME_PATTERNS: tuple[tuple[str, Architecture], ...] = (
    (r"\bA(310|350M|370M|380|530M|550M|570M|580|730M|750|770M?)\b|\bPro A\d", Architecture.ALCHEMIST),
    (r"\bB(50|60|65|70|570|580)\b|\bPro B\d", Architecture.BATTLEMAGE),
    (r"\b(130V|140V)\b", Architecture.LUNAR_LAKE),
    (r"\b(130T|140T)\b|\bArc(\(TM\))? Graphics$", Architecture.METEOR_LAKE),
    (r"\bB(370|380|390)\b|Panther", Architecture.PANTHER_LAKE),
    (r"\bMax (1100|1350|1450|1550)\b|Ponte Vecchio", Architecture.DATA_CENTER_MAX),
    (r"Iris.*Xe|\bUHD Graphics 7\d\d\b", Architecture.XE_LP),  # other UHD Graphics are of older generations too
)


def architecture_of(pci_device_id: int | None, name: str) -> Architecture:
    """The architecture of an Intel GPU, by PCI device id first and by marketing name else."""
    for first, last, architecture in _PCI_RANGES:
        if pci_device_id is not None and first <= pci_device_id <= last:
            return architecture
    for pattern, architecture in _NAME_PATTERNS:
        if re.search(pattern, name, re.IGNORECASE):
            return architecture
    return Architecture.UNKNOWN


def profile_of(architecture: Architecture) -> Profile:
    """The architecture's profile with the user's overrides applied.

    Raises:
        ValueError: the overrides file names an unknown architecture or field, gives one a value of another type, or is
            not JSON.
    """
    return _overrides().get(architecture, PROFILES[architecture])


def _overrides() -> dict[Architecture, Profile]:
    path = os.environ.get(OVERRIDES_VARIABLE)
    if not path:
        return {}
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{OVERRIDES_VARIABLE}: {path} cannot be read as JSON ({error}), mend or unset it.") from error
    if not isinstance(data, dict):
        raise ValueError(
            f'{OVERRIDES_VARIABLE}: {path} holds no object of architectures, write {{"battlemage": {{...}}}}.'
        )
    by_key = {architecture.name.lower(): architecture for architecture in Architecture}
    result = {}
    for key, values in data.items():
        if key not in by_key:
            raise ValueError(
                f"{OVERRIDES_VARIABLE}: no architecture is called {key!r}, use one of {', '.join(by_key)}."
            )
        result[by_key[key]] = _overridden(key, PROFILES[by_key[key]], values)
    return result


def _overridden(key: str, profile: Profile, values: object) -> Profile:
    if not isinstance(values, dict):
        raise ValueError(f'{OVERRIDES_VARIABLE}: {key} holds no object of fields, write {{"memory_fraction": 0.9}}.')
    hints = {name: hint for name, hint in get_type_hints(Profile).items() if name != "architecture"}
    frozen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    for name, value in frozen.items():
        if name not in hints:
            raise ValueError(
                f"{OVERRIDES_VARIABLE}: a profile has no field {name!r}, use one of {', '.join(sorted(hints))}."
            )
        if not _fits(value, hints[name]):
            kind = hints[name].__name__ if isinstance(hints[name], type) else hints[name]
            raise ValueError(f"{OVERRIDES_VARIABLE}: {key}'s {name} cannot be {values[name]!r}, give it {kind}.")
    return dataclasses.replace(profile, **frozen)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a field's type."""
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(entry, get_args(hint)[0]) for entry in value)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    return type(value) is hint or (hint is float and type(value) is int)
