"""Work on a device that does not answer is left behind, with all that it has changed meanwhile undone."""

from __future__ import annotations

import contextvars
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.harness.hosts import ROOT
from tests.xpu_sim import Simulation
from xpu_utils.recovery import watch
from xpu_utils.recovery.faults import FaultKind, NoAnswerError, classify
from xpu_utils.recovery.watch import LONGER_THAN_EVER, NEW_WORK, Patience, hanging_devices, undone, watched

XPU, OTHER = torch.device("xpu:0"), torch.device("xpu:1")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, sim: Simulation) -> Iterator[None]:
    """The shortest limits there are, and none of what an earlier test left behind."""
    monkeypatch.setattr(watch, "PATIENCE", Patience(0.01))
    monkeypatch.setattr(watch, "_hanging", set())
    yield
    for index in (0, 1):
        sim.let_go_on(index)


def working() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("work on")]


def test_work_is_done_as_by_its_caller() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    variable.set("the caller's")
    seen = []

    def work() -> torch.Tensor:
        seen.append((variable.get(), torch.is_inference_mode_enabled(), torch.xpu.current_device()))
        return torch.ones(2, device=XPU) + 1

    with torch.inference_mode(), torch.xpu.device(1):
        answer = watched(work, XPU)
    assert answer.is_inference()
    assert answer.tolist() == [2, 2]
    assert seen == [("the caller's", True, 1)]
    assert working() == []


def test_work_has_a_thread_that_did_work_before() -> None:
    """Libraries prepare themselves thread by thread."""
    first = watched(threading.get_ident, XPU)
    assert watched(threading.get_ident, XPU) == first != threading.get_ident()
    with ThreadPoolExecutor(2) as callers:
        met = threading.Barrier(2)
        both = [callers.submit(watched, lambda: (met.wait(60), threading.get_ident())[1], XPU) for _ in range(2)]
        assert first in {call.result() for call in both} - {threading.get_ident()}
        assert len({call.result() for call in both}) == 2


def test_what_work_raises_is_raised() -> None:
    with pytest.raises(KeyError, match="odd"):
        watched(lambda: {}["odd"], XPU)
    assert working() == []


def test_the_processor_s_work_stays_on_its_thread() -> None:
    assert watched(threading.get_ident, torch.device("cpu")) == threading.get_ident()


def test_a_device_that_hangs_is_given_up_and_keeps_what_is_on_it(sim: Simulation) -> None:
    held = {"a weight": torch.ones(4, device=XPU)}
    done: list[str] = []
    before = sim.statistics().devices[0].freed_while_hanging
    sim.add_fault("add", "hang", device=0)

    def goes_on() -> None:
        done.append("went on")

    def work() -> None:
        with undone(lambda: done.append("undone")), undone(lambda: done.append("lock"), at_the_end=False):
            held["a weight"] + 1
            goes_on()

    with pytest.raises(NoAnswerError, match=r"^xpu:0 gave no answer for 0 s$") as caught:
        watched(work, XPU)
    assert classify(caught.value) is FaultKind.NO_ANSWER
    assert hanging_devices() == {"xpu:0"}
    assert done == ["lock", "undone"], "before it comes back"
    held.clear()
    assert sim.statistics().devices[0].freed_while_hanging == before
    assert watched(lambda: torch.ones(1, device=OTHER).item(), OTHER) == 1, "another device answers"
    (left,) = working()
    sim.let_go_on(0)
    left.join(60)
    assert not left.is_alive()
    assert done == ["lock", "undone"], "it ends where it was, and undoes nothing twice"


class Looking(watch._Worker):
    """Lets the work go on by one call with each look."""

    def __init__(self) -> None:
        super().__init__(XPU)
        self.looked: queue.SimpleQueue[None] = queue.SimpleQueue()  # its wait is one call

    def _position(self) -> watch.Position:
        position = super()._position()
        self.looked.put(None)
        return position

    def ends_within_two_looks_a_call(self, work: Callable[[], None]) -> bool:
        task = watch._Task(work, XPU)
        self.begin(task)
        return self.ends(task, watch.LOOK_SECONDS * 2)


def test_work_that_goes_from_call_to_call_is_waited_for() -> None:
    """Longer than the limit, which is for one call."""
    worker = Looking()

    def work() -> None:
        worker.looked.get()
        worker.looked.get()
        worker.looked.get()
        worker.looked.get()

    assert worker.ends_within_two_looks_a_call(work)


def test_a_loop_that_waits_at_one_place_is_waited_for() -> None:
    """As for one tile after the other."""
    worker = Looking()

    def work() -> None:
        for _ in range(4):
            worker.looked.get()

    assert worker.ends_within_two_looks_a_call(work)


def test_a_turn_of_a_loop_that_does_not_end_is_given_up() -> None:
    worker, answered, gone_on = Looking(), threading.Event(), threading.Event()

    def work() -> None:
        for turn in range(3):
            if turn < 2:
                worker.looked.get()
            else:
                answered.wait()
        gone_on.set()

    assert not worker.ends_within_two_looks_a_call(work)
    answered.set()
    assert gone_on.wait(60)


def test_who_looks_keeps_no_value_of_a_variable() -> None:
    def is_gone() -> bool:  # without pytest's assertions, which call locals()
        tensor = torch.ones(1)
        gone = weakref.ref(tensor)
        watch.position(sys._getframe())
        del tensor
        return gone() is None

    assert is_gone()


def test_who_looks_leaves_a_function_its_own_view_of_its_variables() -> None:
    mine = locals()
    mine["other"] = 1
    watch.position(sys._getframe())
    assert mine["other"] == 1


COLLECTING = """
import gc, threading, time
from xpu_utils.recovery.watch import current_frames

class Garbage:
    def __init__(self):
        self.itself = self
    def __del__(self):
        time.sleep(0)  # others run meanwhile

def begin_and_end():
    while True:
        threading.Thread(target=int).start()

gc.set_threshold(5)
for _ in range(4):
    threading.Thread(target=begin_and_end, daemon=True).start()
for _ in range(100):
    for _ in range(20):
        Garbage()
    current_frames()
"""


def test_who_looks_where_threads_are_does_not_wait_for_what_is_collected() -> None:
    """Up to Python 3.11.8 that holds up all threads for good."""
    subprocess.run([sys.executable, "-c", COLLECTING], cwd=ROOT, timeout=60, check=True)


def test_a_limit_is_learnt_from_what_the_same_work_took() -> None:
    patience = Patience(10)
    assert patience.seconds("step") == NEW_WORK * 10
    patience.learn("step", 0.1)
    assert patience.seconds("step") == 10
    patience.learn("step", 60)
    patience.learn("step", 1)
    assert patience.seconds("step") == LONGER_THAN_EVER * 60
    for other in range(watch.REMEMBERED):
        patience.learn(other, 1)
    assert patience.seconds("step") == NEW_WORK * 10


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("", 300), ("45", 45), ("0", 0), ("1", 1), ("1e-9", 300), ("nan", 300), ("inf", 300), ("-1", 300), ("soon", 300)],
)
def test_who_waits_says_how_long(monkeypatch: pytest.MonkeyPatch, said: str, seconds: float) -> None:
    monkeypatch.setenv(watch.VARIABLE, said)
    assert watch.chosen_seconds() == seconds
