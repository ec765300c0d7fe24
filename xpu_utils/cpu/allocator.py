"""The C library's allocator, told to keep large freed blocks, and to give them back."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 512 << 20
"""Activations of pictures up to about 2048x2048 are smaller; weight files' tensors mostly too."""


def keep_freed_memory() -> bool:
    """Has glibc serve blocks up to 512 MiB from its heap, instead of asking the kernel for fresh pages each time.

    By itself glibc maps every block over 32 MiB anew, and the kernel clears each page on first use: an activation of
    64 MiB then costs more than the SiLU that fills it. The setting holds for the process, and freed memory stays with
    it until `give_back_freed_memory`. See mallopt(3).

    Returns:
        Whether it was done: only glibc has this.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def give_back_freed_memory() -> None:
    """Returns to the kernel what `keep_freed_memory` keeps, as whole pages wherever they lie; see malloc_trim(3)."""
    ctypes.CDLL(None).malloc_trim(0)
