"""Faults are told apart, and the ladder is climbed in order, once per rung."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.faults import FaultKind, NotFiniteError, classify
from xpu_utils.ladder import ORDER, Failure, LadderExhaustedError, Rung, climb


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("XPU out of memory. Tried to allocate 20.00 GiB"), FaultKind.OUT_OF_MEMORY),
        (
            RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
            FaultKind.OUT_OF_MEMORY,
        ),
        (
            RuntimeError("Native API failed. Native API returns: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
            FaultKind.OUT_OF_MEMORY,
        ),
        (RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), FaultKind.DEVICE_LOST),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            FaultKind.OUT_OF_MEMORY,
        ),
        (MemoryError(), FaultKind.OUT_OF_MEMORY),
        (RuntimeError("Required aspect fp64 is not supported on the device"), FaultKind.OPERATOR_MISSING),
        (
            NotImplementedError("Could not run 'aten::foo' with arguments from the 'XPU' backend."),
            FaultKind.OPERATOR_MISSING,
        ),
        (NotFiniteError("step 3"), FaultKind.NOT_FINITE),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), FaultKind.UNKNOWN),
        (KeyError("out of memory"), FaultKind.UNKNOWN),
    ],
)
def test_failures_are_classified_by_type_and_message(error: BaseException, kind: FaultKind) -> None:
    assert classify(error) is kind


def test_a_failure_is_recognised_through_what_caused_it() -> None:
    outer = ValueError("wrapped")
    outer.__cause__ = torch.OutOfMemoryError("out of memory")
    assert classify(outer) is FaultKind.OUT_OF_MEMORY
    handled = ValueError("raised while handling")
    handled.__context__ = RuntimeError("UR_RESULT_ERROR_DEVICE_LOST")
    assert classify(handled) is FaultKind.DEVICE_LOST


def fail_times(count: int, error: BaseException) -> list[BaseException]:
    return [error] * count


def run(failures: list[BaseException], applicable: set[Rung]) -> tuple[list[Rung], int]:
    """Climbs with an attempt that fails with each error in turn; answers the rungs taken and the attempts made."""
    taken: list[Rung] = []
    attempts = 0

    def attempt() -> str:
        nonlocal attempts
        attempts += 1
        if attempts <= len(failures):
            raise failures[attempts - 1]
        return "done"

    actions = {rung: (lambda failure, rung=rung: rung.value if rung in applicable else None) for rung in Rung}
    answer = climb(
        attempt,
        actions,
        on_failure=lambda failure: None,
        on_rung=lambda failure, rung, words: taken.append(rung),
        what="sampling step 1",
    )
    assert answer == "done"
    return taken, attempts


def test_running_out_of_memory_climbs_every_rung_in_order() -> None:
    taken, attempts = run(fail_times(6, torch.OutOfMemoryError("out of memory")), set(Rung))
    assert taken == list(ORDER[FaultKind.OUT_OF_MEMORY])
    assert attempts == 7


def test_a_lost_device_goes_straight_to_another_one() -> None:
    lost = RuntimeError("UR_RESULT_ERROR_DEVICE_LOST")
    assert run([lost], set(Rung)) == ([Rung.ACCELERATOR], 2)
    assert run([lost], {Rung.CPU, Rung.FREE}) == ([Rung.CPU], 2)


def test_a_failure_of_another_kind_on_the_way_continues_on_its_own_ladder() -> None:
    failures = [torch.OutOfMemoryError("out of memory"), RuntimeError("UR_RESULT_ERROR_DEVICE_LOST")]
    assert run(failures, set(Rung))[0] == [Rung.FREE, Rung.ACCELERATOR]


def test_an_unknown_failure_is_raised_as_it_came() -> None:
    error = RuntimeError("shape mismatch")
    with pytest.raises(RuntimeError) as caught:
        run([error], set(Rung))
    assert caught.value is error


def test_when_nothing_is_left_one_sentence_says_what_was_tried() -> None:
    with pytest.raises(LadderExhaustedError, match=r"^sampling step 1 failed with out of memory .* memory freed.*\.$"):
        run(fail_times(9, torch.OutOfMemoryError("out of memory")), {Rung.FREE})


@given(
    errors=st.lists(
        st.sampled_from([torch.OutOfMemoryError("out of memory"), RuntimeError("DEVICE_LOST"), NotFiniteError("nan")]),
        max_size=12,
    ),
    applicable=st.sets(st.sampled_from(list(Rung))),
)
def test_no_rung_is_ever_taken_twice(errors: list[BaseException], applicable: set[Rung]) -> None:
    try:
        taken, attempts = run(errors, applicable)
    except LadderExhaustedError:
        return
    assert len(taken) == len(set(taken))
    assert attempts == len(taken) + 1


def test_a_failed_attempt_keeps_no_tensor_alive() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def attempt() -> None:
        tensor = torch.ones(3)
        alive.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("out of memory")

    try:
        attempt()
    except RuntimeError as error:
        failure = Failure.of(error)
    gc.collect()
    assert failure.kind is FaultKind.OUT_OF_MEMORY
    assert alive[0]() is None
