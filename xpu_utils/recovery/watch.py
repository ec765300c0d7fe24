"""Work on a device that is given up where the device does not answer: a wedged card, or memory that blocks.

A call inside a driver cannot be interrupted. So the work is done on a thread of its own, and who waits for it can go on
without it. One that is done serves the next work, since libraries prepare themselves thread by thread: cuDNN plans
SDXL's convolutions in 80 ms, which each step took. What lies on the device when it is left behind is kept as long as
the process: freeing it may wait for the driver, too. Checked on the simulated XPU, never on Intel hardware.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import ctypes
import functools
import gc
import inspect
import logging
import os
import queue
import sys
import threading
import time
import types
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch

from .faults import NoAnswerError
from .live import live_tensors

Answer = TypeVar("Answer")
Undo = Callable[[], None]

VARIABLE = "XPU_NODES_PATIENCE"
"""Environment variable: seconds that a device may take to answer at least; 0 for as long as it likes."""
PATIENCE_SECONDS = 300.0
NEW_WORK = 3
"""So many times that for work that was not done before: kernels are compiled, disks are slow."""
LONGER_THAN_EVER = 10
"""And so many times the longest that the same work ever took."""
LOOK_SECONDS = 0.5
SHORTEST_SECONDS = 1.0
"""Less patience than that would be out with the first look or two."""
REMEMBERED = 256


class Patience:
    """How long a device may take over one call, learnt from what the same work took before."""

    def __init__(self, least_seconds: float) -> None:
        self.least_seconds = least_seconds
        self._longest: collections.OrderedDict[Hashable, float] = collections.OrderedDict()

    def seconds(self, work: Hashable) -> float:
        """The limit for a piece of work."""
        longest = self._longest.get(work)
        if longest is None:
            return NEW_WORK * self.least_seconds
        return max(self.least_seconds, LONGER_THAN_EVER * longest)

    def learn(self, work: Hashable, seconds: float) -> None:
        """Notes what it took."""
        self._longest[work] = max(seconds, self._longest.pop(work, 0.0))
        if len(self._longest) > REMEMBERED:
            self._longest.popitem(last=False)


def seconds_in(said: object) -> float:
    """The seconds that somebody wrote.

    Raises:
        ValueError: that is neither 0 nor a number of seconds in which a device could answer.
    """
    try:
        seconds = float(str(said))
    except ValueError:
        seconds = -1.0
    if seconds and not SHORTEST_SECONDS <= seconds < float("inf"):
        raise ValueError(f"{said!r} is not a number of seconds: 0, or 1 and more")
    return seconds


def chosen_seconds(setting_seconds: float = PATIENCE_SECONDS) -> float:
    """What the environment says, else the setting."""
    said = os.environ.get(VARIABLE)
    try:
        return seconds_in(said) if said else setting_seconds
    except ValueError as error:
        logging.warning("XPU Nodes: %s: %s, %.0f are used.", VARIABLE, error, setting_seconds)
        return setting_seconds


PATIENCE = Patience(chosen_seconds())
_hanging: set[str] = set()
_idle: dict[str, list[_Worker]] = {}
_idle_lock = threading.Lock()
_kept: list[object] = []
_undo: contextvars.ContextVar[list[Undo] | None] = contextvars.ContextVar("xpu_nodes_watched", default=None)
"""Within watched work, what is undone where that is left behind."""


def watched(work: Callable[[], Answer], device: torch.device, *kind: Hashable) -> Answer:
    """Does work on a device, on a thread that is left behind where the device does not answer.

    The thread has the caller's context variables, inference mode and current device. Work within work that is watched,
    and work on the CPU, is just done.

    Args:
        kind: what makes other work comparable with this: its name, the model's, shapes.

    Raises:
        NoAnswerError: it was in one and the same call for longer than `Patience` allows.
    """
    if device.type == "cpu" or not PATIENCE.least_seconds or _undo.get() is not None or _is_debugged():
        return work()
    key = (str(device), *kind)
    limit_seconds, started = PATIENCE.seconds(key), time.perf_counter()
    worker, task = _worker(device), _Task(work, device)
    worker.begin(task)
    if not worker.ends(task, limit_seconds):
        _keep_all(device)
        worker.leave_behind(task)
        raise NoAnswerError(device, f"{device} gave no answer for {limit_seconds:.0f} s")
    answer = task.answer()
    PATIENCE.learn(key, time.perf_counter() - started)
    return answer


@contextlib.contextmanager
def undone(undo: Undo, *, at_the_end: bool = True) -> Iterator[None]:
    """Undoes something when the block ends, or when the work that it is a part of is left behind before that.

    Args:
        at_the_end: False for what is undone only where it is left behind.
    """
    left = [undo]

    def once() -> None:
        if left:
            left.pop()()

    entered = _undo.get()
    if entered is not None:
        entered.append(once)
    try:
        yield
    finally:
        if entered is not None and once in entered:
            entered.remove(once)
        if at_the_end:
            once()


def silent(devices: Sequence[torch.device], limit_seconds: float) -> list[torch.device]:
    """Those of the devices that do not even do the smallest work within that time."""
    asked = [(_worker(device), _Task(functools.partial(_smallest_work, device), device)) for device in devices]
    for worker, task in asked:
        worker.begin(task)
    return [
        device for device, (worker, task) in zip(devices, asked, strict=True) if not worker.ends(task, limit_seconds)
    ]


def _smallest_work(device: torch.device) -> None:
    torch.ones(1, device=device).add_(1).cpu()


_asking = threading.Lock()


def current_frames() -> dict[int, types.FrameType]:
    """Where every thread is, by its identifier.

    While it is found out nothing is collected: up to 3.11.8 Python then waits for itself, with all threads (gh-106883).
    """
    with _asking:
        collects = gc.isenabled()
        try:
            gc.disable()
            return sys._current_frames()
        finally:
            if collects:
                gc.enable()


Position = list[tuple[int, int, tuple[int, ...]]]


def position(frame: types.FrameType | None) -> Position:
    """Where in the code a thread is, and with what in its variables: another place, call or turn of a loop is progress.

    A loop outside Python, as of `map` or TorchScript, that changes no variable is one call.
    """
    at = []
    while frame is not None:
        at.append((id(frame), frame.f_lasti, _variables(frame)))
        frame = frame.f_back
    return at


_LOCALS = {"locals", "vars", "f_locals"}


def _variables(frame: types.FrameType) -> tuple[int, ...]:
    """What changes with the values of a function's variables, and holds none of these; nothing for a module.

    Before Python 3.13 a frame keeps what was read of it, and tensors with that, in one dict: it is emptied again, and
    left alone in a function that may be using it.
    """
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED or _LOCALS.intersection(code.co_names):
        return ()
    variables = frame.f_locals
    seen = tuple(value if type(value) is int else id(value) for value in [*variables.values()])
    if isinstance(variables, dict):
        variables.clear()
    return seen


def waits_for_watched(frame: types.FrameType | None) -> bool:
    """Whether a thread waits for work that is watched."""
    while frame is not None and frame.f_code is not _Worker.ends.__code__:
        frame = frame.f_back
    return frame is not None


def hanging_devices() -> frozenset[str]:
    """The devices that gave no answer in this process: nothing may be asked of them, nor freed there."""
    return frozenset(_hanging)


def _keep_all(device: torch.device) -> None:
    """Keeps the memory of every tensor on the device; a model that moves gives its tensors other memory."""
    _hanging.add(str(device))
    _kept.extend(tensor.untyped_storage() for tensor in live_tensors(device))


def _is_debugged() -> bool:
    """Whether somebody steps through this thread, and calls take as long as they like."""
    monitoring: Any = getattr(sys, "monitoring", None)  # Python 3.12 and newer
    return sys.gettrace() is not None or bool(monitoring and monitoring.get_tool(monitoring.DEBUGGER_ID))


class _LeftBehind(BaseException):
    """Ends a thread that was left behind, when its call comes back after all."""


class _Task(Generic[Answer]):
    """A piece of work, to be done as by the thread that made this."""

    def __init__(self, work: Callable[[], Answer], device: torch.device) -> None:
        self._work: Callable[[], Answer] | None = work
        self._module: Any = torch.get_device_module(device.type)
        self._current_device = self._module.current_device()
        self._inference = torch.is_inference_mode_enabled()
        self._grad = torch.enable_grad if torch.is_grad_enabled() else torch.no_grad
        self._threads = torch.get_num_threads()
        self._context = contextvars.copy_context()
        self._answer: list[Answer] = []
        self._error: BaseException | None = None
        self.undo: list[Undo] = []
        self.done = threading.Event()

    def work(self) -> None:
        """Does it, and keeps what it answers or raises."""
        assert self._work is not None
        try:
            if self._module.current_device() != self._current_device:
                self._module.set_device(self._current_device)
            if torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)
            self._context.run(_undo.set, self.undo)
            with torch.inference_mode(self._inference), self._grad():
                self._answer.append(self._context.run(self._work))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self._work = None

    def answer(self) -> Answer:
        """What the work answered, or raises what it raised."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._answer.pop()
        finally:
            del error


class _Worker(threading.Thread):
    """A thread that does one piece of work on a device after the other."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(daemon=True)  # the process ends without it
        self._device = str(device)
        self._tasks: queue.SimpleQueue[_Task[Any]] = queue.SimpleQueue()
        self._left_behind = False

    def begin(self, task: _Task[Any]) -> None:
        """Has a piece of work done."""
        self.name = f"work on {self._device}"
        if self.ident is None:
            self.start()
        self._tasks.put(task)

    def run(self) -> None:
        while not self._left_behind:
            task = self._tasks.get()
            task.work()
            with _idle_lock:
                if not self._left_behind:
                    self.name = f"waits for {self._device}"
                    _idle.setdefault(self._device, []).append(self)
            task.done.set()
            del task  # it holds what its work holds

    def ends(self, task: _Task[Any], limit_seconds: float) -> bool:
        """Waits for the end, but not longer than the limit for one call.

        What is counted is how often it was looked: a process that is stopped and a machine that sleeps count nothing.
        """
        waited_seconds, was_at = 0.0, None
        while waited_seconds < limit_seconds:
            if task.done.wait(LOOK_SECONDS):
                return True
            at = self._position()
            waited_seconds = waited_seconds + LOOK_SECONDS if at == was_at else 0.0
            was_at = at
        return False

    def _position(self) -> Position:
        return position(current_frames().get(self.ident or 0))

    def leave_behind(self, task: _Task[Any]) -> None:
        """Undoes what the work has changed for its time, and has it end as soon as its call comes back, if it does."""
        with _idle_lock:
            self._left_behind = True
            if self in _idle.get(self._device, ()):
                _idle[self._device].remove(self)
        while task.undo:
            task.undo.pop()()
        if self.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(_LeftBehind))


def _worker(device: torch.device) -> _Worker:
    """One that has nothing to do."""
    with _idle_lock:
        idle = _idle.get(str(device))
        return idle.pop() if idle else _Worker(device)
