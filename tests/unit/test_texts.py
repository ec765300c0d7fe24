"""Texts of the runtimes below PyTorch, whatever their words, and texts of others that have the same words."""

from __future__ import annotations

import pytest

from xpu_utils.recovery.faults import FaultKind, classify

RUNTIMES = (
    "Failed to create Level-Zero context: 0x78000004",
    "Unified-Runtime adapter returned an unexpected status",
    "Triton Error [ZE]: 0x70000003",
    "could not construct a memory descriptor using a format tag",
    "could not append a binary post-op",
    "could not create a stream",
    "could not wait on a stream",
    "could not create post-ops",
    "object is not initialized",
    "could not map memory object data",
    "could not clone a primitive descriptor",
    "Device does not support USM device allocations",
    "Device does not support shared USM allocations!",
    "urEnqueueKernelLaunch failed: 47",
    "UR_RESULT_ERROR_DEVICE_REQUIRES_RESET",
    "ZE_RESULT_ERROR_DEVICE_REQUIRES_RESET",
    "PI_ERROR_DEVICE_NOT_FOUND",
    "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)",
    "Native API failed. Native API returns: 66 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "Native API failed. Native API returns: -1 (PI_ERROR_DEVICE_NOT_FOUND)",
    "Native API failed. Native API returns: -999 (Unknown PI error)",
    "Total number of work-items in a work-group cannot exceed 1024 for this kernel",
    "No kernel named _ZTSN2at3xpu was found",
    "Unable to find the kernel in the kernel bundle",
    "Kernel bundle does not contain the requested kernel",
    "The specified device does not support the required sub-group size",
    "Intel MKL ERROR: Parameter 6 was incorrect on entry to SGEMM",
    "oneapi::mkl::lapack::getrf: computation error: info = 3",
    "oneMKL DFT: inconsistent configuration parameters",
    "dnnl_unimplemented",
    "status: out_of_memory in primitive",
    "IGC: Internal Compiler Error: Segmentation violation",
    "The program was built for 1 devices",
    "Kernel compilation failed: -11",
    "Event wait failed: GPU HANG: ecode 12:1:85dffffb",
    "DispatchStub: missing kernel for xpu",
    "XPU error: unspecified launch failure",
    "The device ran out of registers: kernel spilled, ZEBIN rejected",
    "AcceleratorError: XPU error: invalid argument",
    "OpenCL API failed. OpenCL API returns: -5 (CL_OUT_OF_RESOURCES)",
    "opencl backend failed with error: -5",
    "The OpenCL backend returned -5",
    "oneCCL: ze_base_entry.cpp:117 init: EXCEPTION",
    "native_cpu backend failed with error: 38",
    "Provided range is out of integer limits. Pass `-fno-sycl-id-queries-fit-in-int' to disable range check.",
    "The queue's device does not have the fp64 aspect",
    "Required aspect fp16 is not supported on the device",
    "Internal error: ESIMD kernel: unsupported",
    "the driver timed out: batch buffer was banned",
    "Input/output error: drm_xe exec failed",
)
"""Of Intel's runtimes and libraries."""

OTHERS = (
    "Noise level zero is not allowed in this scheduler",
    "Could not load the tokenizer of GPT-NEO",
    "EleutherAI/GPT-NEO is gated",
    "PI must be smaller than the number of steps",
    "Could not build module 'UpBlock' from the config",
    "failed module creation: class Foo not registered",
    "could not get the engine of the render plugin",
    "There are no work-items left in the batch list",
    "The queue is wedged between two groups",
    "forward is not implemented for controlnet type 'foo'",
    "This patch has no kernel size",
    "clName must be a string",
    "clTokens must be 77",
    "Raspberry PI is not supported",
    "UR is not a known language code",
    "the file https://oneapi.example/x.safetensors is gone",
    "Missing file: /models/mkl_lora/model.safetensors",
    "Missing file: C:\\oneAPI\\model.safetensors",
    "Error(s) in loading state_dict for UNetModel: Missing key(s): PI_proj.weight",
    "cl_embed shape mismatch",
    "size mismatch for cl_encoder.weight: copying a param with shape [1]",
    "ze_head.weight: shape '[2, 3]' is invalid",
    "mat1 and mat2 shapes cannot be multiplied (77x768 and 1024x320)",
    "Sizes of tensors must match except in dimension 1",
    "no kernel_size was given",
    "ffmpeg ran out of memory",
    "Boolean value of Tensor with more than one value is ambiguous",
    "Expected a 'xpu' device type for generator but found 'cpu'",
    "piInput is wrong",
    "L0 norm is not defined for this loss",
    "L0 regularisation needs a mask",
    "Given groups=1, weight of size [320, 4, 3, 3], expected input[2, 9, 64, 64] to have 4 channels",
    "clipVision model missing",
    "spirv tools are an optional dependency",
    "NEO theme not found",
    "Your API credit is out of memory tokens",
    "the device lost focus",
    "the model object is not initialized",
    "could not create a stream for the video",
)
"""Of models, files and packs."""


@pytest.mark.parametrize("text", RUNTIMES)
def test_a_runtimes_text_is_known(text: str) -> None:
    assert classify(RuntimeError(text)) is not FaultKind.UNKNOWN


@pytest.mark.parametrize("text", OTHERS)
def test_the_same_words_elsewhere_are_none(text: str) -> None:
    assert classify(RuntimeError(text)) is FaultKind.UNKNOWN


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("Triton Error [ZE]: 0x70000003"), FaultKind.OUT_OF_MEMORY),
        (RuntimeError("Triton Error [ZE]: 0x70000001"), FaultKind.DEVICE_LOST),
        (RuntimeError("UR_RESULT_ERROR_DEVICE_REQUIRES_RESET"), FaultKind.DEVICE_LOST),
        (RuntimeError("ZE_RESULT_ERROR_DEVICE_REQUIRES_RESET"), FaultKind.DEVICE_LOST),
        (RuntimeError("OpenCL API failed. OpenCL API returns: -5 (CL_OUT_OF_RESOURCES)"), FaultKind.OUT_OF_MEMORY),
        (RuntimeError("status: out_of_memory in primitive"), FaultKind.OUT_OF_MEMORY),
        (RuntimeError("The queue's device does not have the fp64 aspect"), FaultKind.OPERATOR_MISSING),
        (Exception("UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"), FaultKind.OUT_OF_MEMORY),
        (OSError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), FaultKind.DEVICE_LOST),
        (AssertionError("Native API failed"), FaultKind.DRIVER),
        (SystemError("UR error"), FaultKind.DRIVER),
        (RuntimeError("XPU out of memory while allocating 2.00 GiB"), FaultKind.OUT_OF_MEMORY),
        (RuntimeError("Out of memory on device 0"), FaultKind.OUT_OF_MEMORY),
        (OSError("libze_loader.so.1: cannot open"), FaultKind.UNKNOWN),
        (OSError(2, "No such file", "CL_WEIGHTS"), FaultKind.UNKNOWN),
        (ImportError("libsycl.so.8: PI_ERROR_"), FaultKind.UNKNOWN),
        (Exception("could not create a primitive"), FaultKind.UNKNOWN),
        (KeyboardInterrupt("UR error"), FaultKind.UNKNOWN),
        (NotImplementedError("not implemented for this model type"), FaultKind.UNKNOWN),
        (NotImplementedError("\"add_stub\" not implemented for 'Float8_e4m3fn'"), FaultKind.OPERATOR_MISSING),
    ],
)
def test_types_and_numbers_tell_the_kind(error: BaseException, kind: FaultKind) -> None:
    assert classify(error) is kind


def test_what_is_raised_from_none_is_not_what_was_handled() -> None:
    error = ValueError("choose another file")
    error.__context__ = RuntimeError("UR error")
    assert classify(error) is FaultKind.DRIVER
    error.__suppress_context__ = True
    assert classify(error) is FaultKind.UNKNOWN
