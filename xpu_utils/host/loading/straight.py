"""Has ComfyUI's own loaders read weights straight into the models that they build; see `reading`."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.utils

from ...calls import Call
from ...recovery.watch import undone
from ...weights.check import SAFETENSORS_SUFFIXES
from ..hooks import State, named, put_meanwhile, record, switched_off
from ..neighbours import pack_of
from .reading import Progress, Reading

HOOK = named("straight loading")

_DOES = "loaders of this pack read files straight into the models"
_FUNCTION = "load_torch_file"

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def straight(paths: Sequence[Path]) -> Iterator[Reading | None]:
    """Has the host's loaders, in the block and in this thread, read these files' weights straight into models.

    Weights of the dtype that they keep are mapped on the CPU; all others are read in pieces, on an accelerator by
    parallel threads through page-locked memory. The node that is executed shows how far that is. Pickles, and
    safetensors files where ComfyUI lacks what is needed, are loaded its own way, with the same result.

    Yields:
        The reading, None where the host loads its own way.

    Raises:
        LoadError: a file was truncated meanwhile or could not be read.
    """
    files = [path for path in paths if path.suffix.lower() in SAFETENSORS_SUFFIXES]
    with _one_at_a_time, undone(_let_others_load, at_the_end=False):
        if not files or not _possible():
            yield None
            return
        reading = Reading(Progress(sum(path.stat().st_size for path in files)))
        with _told_of_files(reading), reading:
            yield reading
            reading.settle()
        reading.progress.end()


def _let_others_load() -> None:
    """Where a device does not answer, the one that loads keeps the lock that it has."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


def _possible() -> bool:
    if switched_off(HOOK):
        return False
    stock = getattr(comfy.utils, _FUNCTION, None)
    if stock is None:
        record(HOOK, State.UNAVAILABLE, f"this ComfyUI has no {_FUNCTION}")
        return False
    if getattr(stock, "__module__", "") != comfy.utils.__name__ or hasattr(stock, "__wrapped__"):
        record(HOOK, State.STOOD_DOWN, f"{_FUNCTION} was replaced by {pack_of(stock)}")
        return False
    if getattr(comfy.utils, "DISABLE_MMAP", False):
        record(HOOK, State.STOOD_DOWN, "ComfyUI was started with --disable-mmap")
        return False
    record(HOOK, State.APPLIED, _DOES)
    return True


@contextlib.contextmanager
def _told_of_files(reading: Reading) -> Iterator[None]:
    """Tells of each file that the host maps in the block, in this thread."""
    stock, thread = comfy.utils.load_torch_file, threading.get_ident()

    @functools.wraps(stock)
    def load_torch_file(*arguments: Any, **keywords: Any) -> Any:
        ckpt, answer = Call(("ckpt",), arguments, keywords).get("ckpt"), stock(*arguments, **keywords)
        if threading.get_ident() == thread and str(ckpt).lower().endswith(SAFETENSORS_SUFFIXES):
            reading.note(Path(ckpt), answer[0] if isinstance(answer, tuple) else answer)
        return answer

    holders = [module for module in (comfy.utils, comfy.clip_vision) if getattr(module, _FUNCTION, None) is stock]
    with contextlib.ExitStack() as until_read:
        for module in holders:
            until_read.enter_context(put_meanwhile(HOOK, module, _DOES, load_torch_file=load_torch_file))
        yield
