"""Faults are told apart, and the ladder is climbed in order, once per rung."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.recovery.faults import (
    FaultKind,
    MisplacedError,
    NoAnswerError,
    NotFiniteError,
    classify,
    first_line,
    is_dead,
)
from xpu_utils.recovery.ladder import ADVICE, ORDER, REPEATED, Failure, LadderExhaustedError, Rung, climb


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
        (RuntimeError("Native API failed. Native API returns: 20"), FaultKind.DEVICE_LOST),
        (RuntimeError("Native API failed. Native API returns: 39"), FaultKind.OUT_OF_MEMORY),
        (RuntimeError("PI_ERROR_DEVICE_NOT_AVAILABLE"), FaultKind.DEVICE_LOST),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), FaultKind.DEVICE_LOST),
        (RuntimeError("level_zero backend failed with error: 2147483646 (UR_RESULT_ERROR_UNKNOWN)"), FaultKind.DRIVER),
        (RuntimeError("could not create a primitive"), FaultKind.DRIVER),
        (RuntimeError("could not execute a primitive"), FaultKind.DRIVER),
        (RuntimeError("UR error"), FaultKind.DRIVER),
        (RuntimeError("Native API failed. Native API returns: -30 (PI_ERROR_INVALID_VALUE)"), FaultKind.DRIVER),
        (
            RuntimeError("Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)"),
            FaultKind.OUT_OF_MEMORY,
        ),
        (RuntimeError("Native API failed. Native API returns: -4"), FaultKind.OUT_OF_MEMORY),
        (RuntimeError("UR backend failed. UR backend returns:40 (UR_RESULT)"), FaultKind.OUT_OF_MEMORY),
        (
            RuntimeError("Current platform can NOT allocate memory block with size larger than 4GB! Tried 7.03 GiB"),
            FaultKind.ALLOCATION_TOO_LARGE,
        ),
        (
            RuntimeError("The program was built for 1 devices\nBuild program log for 'Intel(R) Iris(R)'"),
            FaultKind.DRIVER,
        ),
        (RuntimeError("ZE_RESULT_ERROR_MODULE_BUILD_FAILURE"), FaultKind.DRIVER),
        (RuntimeError("L0 build module failed. Log: out of registers"), FaultKind.DRIVER),
        (RuntimeError("could not create a primitive descriptor for a matmul primitive"), FaultKind.DRIVER),
        (RuntimeError("MKL FFT doesn't support tensor of type: Half"), FaultKind.OPERATOR_MISSING),
        (RuntimeError("Double and complex datatype matmul is not supported in oneDNN"), FaultKind.OPERATOR_MISSING),
        (RuntimeError("DispatchStub: missing kernel for xpu"), FaultKind.OPERATOR_MISSING),
        (RuntimeError("bicubic interpolation with 5D input is not implemented for xpu"), FaultKind.OPERATOR_MISSING),
        (RuntimeError("your picture could not be used"), FaultKind.UNKNOWN),
        (RuntimeError("could not get the file descriptor of a socket"), FaultKind.UNKNOWN),
        (RuntimeError("Expected all tensors to be on the same device, but found xpu:0 and cpu"), FaultKind.MISPLACED),
        (RuntimeError("indices should be either on cpu or on the same device as the indexed"), FaultKind.MISPLACED),
        (RuntimeError("Input type (XPUHalfType) and weight type (HalfTensor) should be the same"), FaultKind.MISPLACED),
        (MisplacedError("patch of a pack: found at least two devices, cpu and xpu:0"), FaultKind.MISPLACED),
        (RuntimeError("Triton Error [ZE]: 0x78000011"), FaultKind.DRIVER),
        (RuntimeError("piProgramBuild failed"), FaultKind.DRIVER),
        (RuntimeError("zeCommandQueueSynchronize returned 0x70000001"), FaultKind.DEVICE_LOST),
        (RuntimeError("No device of requested type available"), FaultKind.DRIVER),
        (RuntimeError("mkl_lapack: computation error"), FaultKind.DRIVER),
        (RuntimeError("the url could not be opened"), FaultKind.UNKNOWN),
        (RuntimeError("pick a size above zero"), FaultKind.UNKNOWN),
        (RuntimeError("UR_RESULT_ERROR_INVALID_BUFFER_SIZE"), FaultKind.ALLOCATION_TOO_LARGE),
        (RuntimeError("the tokenizer failed with error: 20"), FaultKind.UNKNOWN),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), FaultKind.UNKNOWN),
        (KeyError("out of memory"), FaultKind.UNKNOWN),
    ],
)
def test_failures_are_classified_by_type_and_message(error: BaseException, kind: FaultKind) -> None:
    assert classify(error) is kind


def test_a_runtimes_error_without_a_rule_of_its_own_climbs_from_memory_to_the_cpu() -> None:
    taken, _ = run([RuntimeError("UR error")] * 5, set(Rung))
    assert taken == [Rung.FREE, Rung.ATTENTION, Rung.FP32, Rung.ACCELERATOR, Rung.CPU]


def test_the_sentence_names_the_first_fault_as_well() -> None:
    elsewhere = RuntimeError("Expected all tensors to be on the same device, but found cpu and xpu:0")
    with pytest.raises(LadderExhaustedError, match=r"data on two devices .* after out of memory .*is full.*: leave"):
        run([torch.OutOfMemoryError("XPU is full"), elsewhere, elsewhere], {Rung.FREE})


def test_a_failure_is_recognised_through_what_caused_it() -> None:
    outer = ValueError("wrapped")
    outer.__cause__ = torch.OutOfMemoryError("out of memory")
    assert classify(outer) is FaultKind.OUT_OF_MEMORY
    handled = ValueError("raised while handling")
    handled.__context__ = RuntimeError("UR_RESULT_ERROR_DEVICE_LOST")
    assert classify(handled) is FaultKind.DEVICE_LOST


def test_a_chain_of_errors_that_bites_its_tail_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert classify(first) is FaultKind.UNKNOWN


@pytest.mark.parametrize(
    ("error", "line"),
    [(MemoryError(), "MemoryError"), (RuntimeError("XPU out of memory.\nmore"), "XPU out of memory.")],
)
def test_a_failure_is_told_by_its_first_line_and_holds_no_frames(error: Exception, line: str) -> None:
    assert first_line(error) == line
    try:
        try:
            raise error
        except Exception as cause:
            raise ValueError("while handling it") from cause
    except ValueError as raised:
        failure = Failure.of(raised)
    assert failure.message == "while handling it"
    assert (failure.error.__traceback__, error.__traceback__) == (None, None)


def test_a_device_that_answers_is_not_dead() -> None:
    assert not is_dead(torch.device("cpu"))


def fail_times(count: int, error: BaseException) -> list[BaseException]:
    return [error] * count


class Stop(Exception):
    """The host's way to stop a prompt."""


def run(
    failures: list[BaseException],
    applicable: set[Rung],
    *,
    accelerators: int = 1,
    failing: dict[Rung, BaseException] | None = None,
    really: dict[FaultKind, Failure] | None = None,
) -> tuple[list[Rung], int]:
    """Climbs with an attempt that fails with each error in turn; answers the rungs taken and the attempts made.

    Args:
        accelerators: how often another one is found, and any other rung that may be taken again has something to do.
        failing: what the actions of some rungs raise.
        really: what failures of a kind turn out to be.
    """
    taken: list[Rung] = []
    met: list[BaseException] = []
    attempts = 0

    def attempt() -> str:
        nonlocal attempts
        attempts += 1
        if attempts <= len(failures):
            raise failures[attempts - 1]
        return "done"

    def action(rung: Rung) -> str | None:
        if failing and rung in failing:
            raise failing[rung]
        there = rung not in REPEATED or taken.count(rung) < accelerators
        return rung.value if rung in applicable and there else None

    def tell(failure: Failure) -> Failure:
        met.append(failure.error)
        return (really or {}).get(failure.kind, failure)

    answer = climb(
        attempt,
        {rung: (lambda failure, rung=rung: action(rung)) for rung in Rung},
        on_failure=tell,
        on_rung=lambda failure, rung, words: taken.append(rung),
        what="sampling step 1",
        passing=(Stop,),
    )
    assert answer == "done"
    assert len(met) >= len(failures), "every failure is told"
    return taken, attempts


def test_running_out_of_memory_climbs_every_rung_in_order() -> None:
    taken, attempts = run(fail_times(6, torch.OutOfMemoryError("out of memory")), set(Rung))
    assert taken == list(ORDER[FaultKind.OUT_OF_MEMORY])
    assert attempts == 7


def test_a_failure_that_really_was_another_one_goes_that_ones_way() -> None:
    lost = Failure.of(RuntimeError("UR_RESULT_ERROR_DEVICE_LOST"))
    full = torch.OutOfMemoryError("out of memory")
    assert run([full], set(Rung), really={FaultKind.OUT_OF_MEMORY: lost}) == ([Rung.ACCELERATOR], 2)


def test_a_lost_device_goes_straight_to_another_one() -> None:
    lost = RuntimeError("UR_RESULT_ERROR_DEVICE_LOST")
    assert run([lost], set(Rung)) == ([Rung.ACCELERATOR], 2)
    assert run([lost], {Rung.CPU, Rung.FREE}) == ([Rung.CPU], 2)


def test_a_failure_of_another_kind_on_the_way_continues_on_its_own_ladder() -> None:
    failures = [torch.OutOfMemoryError("out of memory"), RuntimeError("UR_RESULT_ERROR_DEVICE_LOST")]
    assert run(failures, set(Rung))[0] == [Rung.FREE, Rung.ACCELERATOR]


def test_each_accelerator_is_tried_and_then_the_cpu() -> None:
    lost = RuntimeError("UR_RESULT_ERROR_DEVICE_LOST")
    assert run([lost] * 2, set(Rung), accelerators=2) == ([Rung.ACCELERATOR, Rung.ACCELERATOR], 3)
    assert run([lost] * 3, set(Rung), accelerators=2)[0] == [Rung.ACCELERATOR, Rung.ACCELERATOR, Rung.CPU]


def test_after_a_rung_that_fails_itself_the_next_one_is_taken() -> None:
    full = torch.OutOfMemoryError("out of memory")
    applicable = {Rung.FREE, Rung.ACCELERATOR, Rung.CPU}
    assert run([full] * 2, applicable, failing={Rung.ACCELERATOR: full}, accelerators=0)[0] == [Rung.FREE, Rung.CPU]
    with pytest.raises(KeyError):
        run([full] * 2, applicable, failing={Rung.ACCELERATOR: KeyError("odd")})


def test_a_failure_that_another_error_wraps_is_met_as_well() -> None:
    wrapped = ValueError("the block failed")
    wrapped.__cause__ = torch.OutOfMemoryError("out of memory")
    assert run([wrapped], set(Rung)) == ([Rung.FREE], 2)


def test_a_stop_is_passed_on_even_in_the_handling_of_a_failure() -> None:
    stop = Stop()
    stop.__context__ = torch.OutOfMemoryError("out of memory")
    with pytest.raises(Stop):
        run([stop], set(Rung))
    with pytest.raises(Stop):
        run([torch.OutOfMemoryError("out of memory")], set(Rung), failing={Rung.FREE: stop})


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("out of memory"), "make the picture or batch smaller, or free memory"),
        (RuntimeError("UR_RESULT_ERROR_DEVICE_LOST"), "restart ComfyUI to get the device back"),
        (NotFiniteError("nan"), "choose precision fp32, or leave out the LoRA, .*"),
        (RuntimeError("Required aspect fp64"), "update the driver and PyTorch, or choose another device"),
    ],
)
def test_the_advice_fits_the_failure(error: BaseException, advice: str) -> None:
    with pytest.raises(LadderExhaustedError, match=f"nothing could be tried: {advice}.$"):
        run([error], set())


def test_an_unknown_failure_is_raised_as_it_came() -> None:
    error = RuntimeError("shape mismatch")
    with pytest.raises(RuntimeError) as caught:
        run([error], set(Rung))
    assert caught.value is error


def test_when_nothing_is_left_one_sentence_says_what_was_tried() -> None:
    with pytest.raises(LadderExhaustedError, match=r"^sampling step 1 failed with out of memory .* memory freed.*\.$"):
        run(fail_times(9, torch.OutOfMemoryError("out of memory")), {Rung.FREE})


def test_every_failure_that_is_climbed_has_advice() -> None:
    assert ADVICE.keys() == ORDER.keys()


FAULTS: dict[FaultKind, BaseException] = {
    FaultKind.OUT_OF_MEMORY: torch.OutOfMemoryError("out of memory"),
    FaultKind.ALLOCATION_TOO_LARGE: RuntimeError("UR_RESULT_ERROR_INVALID_BUFFER_SIZE"),
    FaultKind.DEVICE_LOST: RuntimeError("DEVICE_LOST"),
    FaultKind.NO_ANSWER: NoAnswerError(torch.device("xpu:0"), "xpu:0 gave no answer for 300 s"),
    FaultKind.OPERATOR_MISSING: RuntimeError("DispatchStub: missing kernel"),
    FaultKind.NOT_FINITE: NotFiniteError("nan"),
    FaultKind.MISPLACED: MisplacedError("a patch of another pack"),
    FaultKind.DRIVER: RuntimeError("UR error"),
}


def test_there_is_a_fault_of_every_kind_that_is_climbed() -> None:
    assert FAULTS.keys() == ORDER.keys()
    assert {kind: classify(error) for kind, error in FAULTS.items()} == {kind: kind for kind in FAULTS}


@given(
    errors=st.lists(st.sampled_from(list(FAULTS.values())), max_size=12),
    applicable=st.sets(st.sampled_from(list(Rung))),
    failing=st.dictionaries(st.sampled_from(list(Rung)), st.sampled_from(list(FAULTS.values()))),
    accelerators=st.integers(1, 3),
)
def test_any_sequence_of_faults_ends_with_no_rung_taken_twice(
    errors: list[BaseException], applicable: set[Rung], failing: dict[Rung, BaseException], accelerators: int
) -> None:
    """Whatever fails on the way, rungs too: in the answer, or in one sentence once nothing more applies."""
    try:
        taken, attempts = run(errors, applicable, failing=failing, accelerators=accelerators)
    except LadderExhaustedError:
        return
    assert max((taken.count(rung) for rung in set(taken) - REPEATED), default=0) <= 1
    assert attempts == len(errors) + 1


@pytest.mark.parametrize("kind", ORDER)
def test_as_many_faults_as_there_are_rungs_end_in_the_answer_and_one_more_in_a_sentence(kind: FaultKind) -> None:
    for count in range(len(ORDER[kind]) + 1):
        assert run([FAULTS[kind]] * count, set(Rung)) == (list(ORDER[kind][:count]), count + 1)
    with pytest.raises(LadderExhaustedError, match=ADVICE[kind]):
        run([FAULTS[kind]] * (len(ORDER[kind]) + 1), set(Rung))


RUNTIMES = (
    *("UR error", "UR_RESULT_ERROR_", "urEnqueueKernelLaunch", "unified runtime", "PI_ERROR_", "piProgramBuild"),
    *("Native API failed", "level_zero", "Level Zero", "ZE_RESULT_ERROR", "zeKernelCreate", "clEnqueueNDRangeKernel"),
    *("CL_OUT_", "sycl::", "SYCL", "DPC++", "IGC:", "Build program log", "could not create a primitive"),
    *("oneDNN", "dnnl_status", "oneMKL", "MKL "),
)


@given(before=st.text(), runtime=st.sampled_from(RUNTIMES), after=st.text(), applicable=st.sets(st.sampled_from(Rung)))
def test_no_text_of_a_runtime_reaches_the_user_as_it_is(
    before: str, runtime: str, after: str, applicable: set[Rung]
) -> None:
    error = RuntimeError(f"{before} {runtime}{after}")
    assert classify(error) is not FaultKind.UNKNOWN
    with pytest.raises(LadderExhaustedError, match=r"(?s)^sampling step 1 failed with .* and was given up after .*\.$"):
        run([error] * (len(Rung) + 1), applicable)


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
