"""Any error text of Intel's runtimes and libraries, at any stage, ends in the picture; so does one that spoils more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.harness.server import Server
from tests.xpu_sim.control import Client as Simulation

from .matrix import faulty_server, graph, run_case, set_next_fault

Machine = tuple[Server, Simulation]

TEXTS = (
    "UR error",
    "Native API failed. Native API returns: -30 (PI_ERROR_INVALID_VALUE) -30 (PI_ERROR_INVALID_VALUE)",
    "Current platform can NOT allocate memory block with size larger than 4GB! Tried to allocate 7.03 GiB",
    "could not create a primitive",
    "could not execute a primitive",
    "The program was built for 1 devices\nBuild program log for 'Intel(R) Iris(R) Xe Graphics [0x9a49]':\nwarning",
    "ZE_RESULT_ERROR_MODULE_BUILD_FAILURE",
    "MKL FFT doesn't support tensor of type: Half",
    "grid_sampler(): bicubic interpolation with 5D input is not implemented for xpu",
    "UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
    "level_zero backend failed with error: 17 (UR_RESULT_ERROR_PROGRAM_BUILD_FAILURE)",
    "level_zero backend failed with error: 2147483646 (UR_RESULT_ERROR_UNKNOWN)",
    "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES) -5 (PI_ERROR_OUT_OF_RESOURCES)",
    "Double and complex datatype matmul is not supported in oneDNN",
    "Required aspect fp64 is not supported on the device",
    "DispatchStub: missing kernel for xpu",
    "No device of requested type available. Please check the installation",
    "Triton Error [ZE]: 0x78000011",
    "piProgramBuild failed",
    "IGC: Internal Compiler Error: Segmentation violation",
)
STAGES = {
    "encode": ("positive", 0, "addmm"),
    "sample": ("sampler", 2, "convolution"),
    "decode": ("decode", 0, "convolution"),
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with faulty_server(tmp_path_factory.mktemp("texts"), devices=3) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(machine: Machine) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    picture = run_case(*machine, None, graph("euler")).picture
    assert picture is not None
    return picture


@pytest.mark.matrix  # per commit, unit tests have the kinds of the texts, and test_faults.py the kinds at every stage
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_a_runtime_ends_in_the_picture(
    machine: Machine, undisturbed: np.ndarray[tuple[int, ...], np.dtype[np.int16]], text: str, stage: str
) -> None:
    node, step, operator = STAGES[stage]
    set_next_fault(machine[0], node, step=step, operator=operator, kind="error", message=text)
    outcome = run_case(*machine, None, graph("euler"))
    assert outcome.message == ""
    assert outcome.rungs, "nothing failed"
    assert np.array_equal(outcome.picture, undisturbed)


@pytest.mark.parametrize("stage", ["sample", pytest.param("decode", marks=pytest.mark.matrix)])
def test_memory_that_ran_out_and_spoiled_what_was_on_the_device_costs_nothing(
    tmp_path_factory: pytest.TempPathFactory, stage: str
) -> None:
    """The device answers, but nothing that was on it before can be used or read (torch-xpu-ops #1324)."""
    node, step, operator = STAGES[stage]
    spoiled = [
        {"operator": name, "kind": "error", "message": "UR error", "device": 0, "times": None}
        for name in ("copy_", "convolution", "addmm")
    ]
    with faulty_server(tmp_path_factory.mktemp("spoiled")) as (server, simulation):
        expected = run_case(server, simulation, None, graph("euler"))
        set_next_fault(server, node, step=step, operator=operator, kind="out_of_memory", also=spoiled)
        outcome = run_case(server, simulation, None, graph("euler"))
        assert outcome.message == ""
        assert "another device" in outcome.rungs
        assert np.array_equal(outcome.picture, expected.picture)
