"""What is known of each GPU architecture, as data that the user can override."""

from __future__ import annotations

import dataclasses
import enum
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

INTEL_VENDOR = 0x8086
"""Intel's number among the makers of PCI devices."""

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
    BEFORE_XE = "older than Xe"
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
    keeps_results: bool = True
    """Whether results stay right when the cache is emptied before anything was read to the host (pytorch #197520)."""
    official: bool = True
    """Whether PyTorch supports it officially: Alchemist and later (c10/xpu/XPUFunctions.cpp warns of others)."""
    kernel_driver: str = ""
    """The only Linux driver that fully supports it: "xe"; empty where i915 does as well."""
    matrix_operations_per_clock: int | None = None
    """16-bit operations of the matrix unit beside one vector engine; None where there is none, or it is not known."""
    vector_operations_per_clock: int | None = None
    """32-bit operations of one vector engine: two for each of its 8 or 16 lanes."""


# The 4 GB limit: intel/unified-runtime #1245. No fused attention is relied on where it was seen to allocate its scores
# (A770: ComfyUI #7004, #8767) or on older and smaller matrix units. Matrix operations: half of Intel's published 8-bit
# TOPS, such as 233 for the B580 (160 engines, 256, 2.85 GHz) and 67 for the Arc 140V (64, 256, 2.05 GHz); vector ones:
# its 17.2 TFLOPS for the A770 (512 engines, 2.1 GHz) and 52 for the Max 1550 (1024 engines, 1.6 GHz). PCI ids below:
# the kernel's include/drm/intel/pciids.h.
PROFILES: dict[Architecture, Profile] = {
    profile.architecture: profile
    for profile in (
        Profile(
            Architecture.ALCHEMIST,
            single_allocation_limit_bytes=4 << 30,
            flash_head_dims=(),
            keeps_results=False,
            matrix_operations_per_clock=128,
            vector_operations_per_clock=16,
        ),
        Profile(
            Architecture.BATTLEMAGE,
            kernel_driver="xe",
            matrix_operations_per_clock=256,
            vector_operations_per_clock=32,
        ),
        Profile(
            Architecture.METEOR_LAKE,
            integrated=True,
            single_allocation_limit_bytes=4 << 30,
            flash_head_dims=(),
            vector_operations_per_clock=16,
        ),
        Profile(
            Architecture.LUNAR_LAKE,
            integrated=True,
            kernel_driver="xe",
            matrix_operations_per_clock=256,
            vector_operations_per_clock=32,
        ),
        Profile(
            Architecture.PANTHER_LAKE,
            integrated=True,
            kernel_driver="xe",
            matrix_operations_per_clock=256,
            vector_operations_per_clock=32,
        ),
        Profile(
            Architecture.XE_LP,
            integrated=True,
            official=False,
            compute_dtypes=("fp16", "fp32"),
            single_allocation_limit_bytes=4 << 30,
            flash_head_dims=(),
            vector_operations_per_clock=16,
        ),
        Profile(
            Architecture.DATA_CENTER_MAX,
            fp64=True,
            matrix_operations_per_clock=512,
            vector_operations_per_clock=32,
        ),
        Profile(
            Architecture.BEFORE_XE,
            integrated=True,
            official=False,
            compute_dtypes=("fp16", "fp32"),
            single_allocation_limit_bytes=4 << 30,
            memory_fraction=None,
            flash_head_dims=(),
        ),
        Profile(Architecture.UNKNOWN, memory_fraction=None),
    )
}

_PCI_RANGES: tuple[tuple[int, int, Architecture], ...] = (
    (0x0042, 0x0AFF, Architecture.BEFORE_XE),
    (0x0B69, 0x0B6E, Architecture.DATA_CENTER_MAX),
    (0x0BD0, 0x0BEF, Architecture.DATA_CENTER_MAX),
    (0x0C00, 0x0FFF, Architecture.BEFORE_XE),
    (0x1600, 0x1AFF, Architecture.BEFORE_XE),
    (0x22B0, 0x22B3, Architecture.BEFORE_XE),
    (0x2500, 0x2EFF, Architecture.BEFORE_XE),
    (0x3184, 0x3185, Architecture.BEFORE_XE),
    (0x3E90, 0x3EAF, Architecture.BEFORE_XE),
    (0x4500, 0x45FF, Architecture.BEFORE_XE),
    (0x4600, 0x46FF, Architecture.XE_LP),
    (0x4905, 0x4909, Architecture.XE_LP),
    (0x4C80, 0x4C9F, Architecture.XE_LP),
    (0x4E50, 0x4E7F, Architecture.BEFORE_XE),
    (0x4F80, 0x4F88, Architecture.ALCHEMIST),
    (0x5690, 0x56C2, Architecture.ALCHEMIST),
    (0x5900, 0x5AFF, Architecture.BEFORE_XE),
    (0x6420, 0x64FF, Architecture.LUNAR_LAKE),
    (0x7D00, 0x7DFF, Architecture.METEOR_LAKE),
    (0x87C0, 0x87CA, Architecture.BEFORE_XE),
    (0x8A50, 0x8A7F, Architecture.BEFORE_XE),
    (0x9A40, 0x9AFF, Architecture.XE_LP),
    (0x9B20, 0x9BFF, Architecture.BEFORE_XE),
    (0xA700, 0xA7FF, Architecture.XE_LP),
    (0xB080, 0xB0BF, Architecture.PANTHER_LAKE),
    (0xB640, 0xB640, Architecture.METEOR_LAKE),
    (0xE200, 0xE2FF, Architecture.BATTLEMAGE),
    (0xFD80, 0xFD8F, Architecture.PANTHER_LAKE),
)

_NAME_PATTERNS: tuple[tuple[str, Architecture], ...] = (
    (r"\bA(310|350M|370M|380|530M|550M|570M|580|730M|750|770M?)\b|\b(Pro A|Flex 1)\d", Architecture.ALCHEMIST),
    (r"\bB(50|60|65|70|570|580)\b|\bPro B\d", Architecture.BATTLEMAGE),
    (r"\b(130V|140V)\b", Architecture.LUNAR_LAKE),
    (r"\b(130T|140T)\b|\bArc(\(TM\))? Graphics$", Architecture.METEOR_LAKE),
    (r"\bB(370|380|390)\b|Panther", Architecture.PANTHER_LAKE),
    (r"\bMax (1100|1350|1450|1550)\b|Ponte Vecchio", Architecture.DATA_CENTER_MAX),
    (r"Iris.*Xe|\bUHD Graphics 7\d\d\b", Architecture.XE_LP),  # other UHD Graphics are of older generations too
)


def architecture_of(pci_device_id: int | None, name: str) -> Architecture:
    """The architecture of an Intel GPU, by PCI device id (its name may hold it) first and by marketing name else."""
    pci_device_id = pci_id_in(name) if pci_device_id is None else pci_device_id
    for first, last, architecture in _PCI_RANGES:
        if pci_device_id is not None and first <= pci_device_id <= last:
            return architecture
    for pattern, architecture in _NAME_PATTERNS:
        if re.search(pattern, name, re.IGNORECASE):
            return architecture
    return Architecture.UNKNOWN


def pci_id_in(name: str) -> int | None:
    """The PCI device id that a driver puts into a name it has no other for: "Intel(R) Graphics [0x64a0]"."""
    match = re.search(r"\[(0x[0-9a-f]{4})\]", name, re.IGNORECASE)
    return int(match[1], 16) if match else None


def known_profiles() -> tuple[Mapping[Architecture, Profile], str]:
    """Every architecture's profile with the user's overrides, or without them and what is wrong with their file."""
    path = os.environ.get(OVERRIDES_VARIABLE)
    try:
        return {**PROFILES, **(_overrides(Path(path)) if path else {})}, ""
    except (ValueError, ImportError) as error:
        return PROFILES, str(error)


_KEYS = {architecture.name.lower(): architecture for architecture in Architecture}
_FIELDS: dict[str, Any] = {
    name: (hint, None) for name, hint in get_type_hints(Profile).items() if name != "architecture"
}


def _overrides(file: Path) -> dict[Architecture, Profile]:
    import pydantic  # here, because older ComfyUIs start without it

    override_kind = pydantic.create_model("Override", __config__={"extra": "forbid", "strict": True}, **_FIELDS)
    kind: pydantic.TypeAdapter[dict[str, Any]] = pydantic.TypeAdapter(dict[Literal[tuple(_KEYS)], override_kind])  # type: ignore
    try:
        given = kind.validate_json(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the whole"
        raise ValueError(f"{file} is wrong at {where} ({first['msg']})") from error
    return {
        _KEYS[key]: dataclasses.replace(PROFILES[_KEYS[key]], **override.model_dump(exclude_unset=True))
        for key, override in given.items()
    }
