"""ONEAPI_DEVICE_SELECTOR and ZE_AFFINITY_MASK: which of the Level Zero GPUs, the only ones PyTorch takes, they leave.

Grammar: intel/llvm, sycl/doc/EnvironmentVariables.md; the Level Zero specification, "Affinity Mask".
"""

from __future__ import annotations


def shows(selector: str, position: int) -> bool:
    """Whether the Level Zero GPU at that position is left.

    Args:
        selector: terms such as "level_zero:gpu", "*:0,1" or "!opencl:*", separated by semicolons; a term with an
            exclamation mark discards, and without another kind of term everything else is accepted.
        position: counted from 0.
    """
    terms = [term.strip() for term in selector.lower().split(";") if term.strip()]
    accepting = [term for term in terms if not term.startswith("!")]
    discarding = [term[1:] for term in terms if term.startswith("!")]
    accepted = not accepting or any(_names(term, position) for term in accepting)
    # "!level_zero:0.1" discards a part of a device and leaves the rest of it.
    return accepted and not any(_names(term, position) for term in discarding if "." not in term)


def _names(term: str, position: int) -> bool:
    backend, _, devices = term.partition(":")
    names = [device.strip().split(".")[0] for device in devices.split(",")]
    return backend in ("level_zero", "*") and any(name in ("*", "gpu", str(position)) for name in names)


def leaves(mask: str, position: int) -> bool:
    """Whether ZE_AFFINITY_MASK leaves the GPU at that position, or a tile of it: "0,1.0"."""
    return not mask.strip() or str(position) in [term.split(".")[0].strip() for term in mask.split(",")]
