"""How errors of the runtimes below PyTorch read: UR, PI, Level Zero, OpenCL, SYCL, oneDNN, MKL, compiler and driver.

Constants are matched in their own case, prose by whole phrases: names of packs, files and weights have the same words.
"""

from __future__ import annotations

_ALONE = r"(?<![\w/\\.-])"
"""Before a name that stands for itself: not within another one, a path or an address."""

RUNTIME = r"(level_zero|Native API|\bUR\b|opencl|native_cpu|OpenCL API)[^\n]*\b(error|returns|code):? *"
"""Intel's runtimes before the number of an error; other libraries have other numbers."""
_LEVEL_ZERO = r"(\[ZE\]|\bze[A-Z]\w+)[^\n]*\b0x7000000"
"""Level Zero before the last digit of an error of a device (`ze_result_t`)."""

CONSTANTS = (
    _ALONE + r"(UR_RESULT_|PI_ERROR_|ZES?_RESULT_|CL_[A-Z_]{4,})"
    r"|\bUR (error|backend)|\bPI error|\bNative API|\bOpenCL API|\[ZE\]|(?i:\bxpu error\b)"
    r"|\b(level_zero\w*|opencl|OpenCL|native_cpu) backend\b"
)
"""What nothing but a runtime says, whatever the type of the error that carries it."""

# Functions of the interfaces have the object that they are of in their name: `urEnqueueKernelLaunch`.
_FUNCTIONS = (
    r"\b(ur|pi|zes?|cl)(Adapter|Platform|Driver|Device|Context|Command|Queue|Program|Module|Kernel|Mem|USM|SVM|Event"
    r"|Fence|Enqueue|Image|Sampler|Virtual|Physical|Create|Build|Get|Set|Wait|Ext)[A-Z]\w*|\bzes?Init\b|\bcl(Finish|Flush)\b"
)
_LIBRARIES = (
    _ALONE
    + r"(level_zero|LEVEL_ZERO|[Ll]evel-[Zz]ero|Level Zero|(?i:unified[ _-]runtime)|SYCL|sycl::|-fno-sycl|DPC\+\+"
    r"|dpcpp|ESIMD|USM\b|IGC\b|NEO::|ocloc\b|ZEBIN\b|SPIR-?V\b|oneDNN|dnnl_|DNNL|mkldnn\b|oneMKL|oneCCL|oneapi::"
    r"|MKL\b|mkl_(lapack|blas|dft|sparse|vml|rng)\b|torch[-_]xpu[-_]ops|drm_(xe|i915))|\bxpu::"
    r"|\b[Ss]ycl (error|exception|runtime)|\bL0 (error|build|module|driver|runtime|backend|device)"
)
_PHRASES = (
    r"(?i:program was built for \d+ devices?|build program log|kernel compilation failed|backend compiler failed"
    r"|could not (\w+ )?(create|construct|execute|initialize|append|get|set|query|reorder|map|unmap|clone)\b"
    r"[\w -]{0,30}(primitive|memory (object|descriptor)|post-ops?\b)"
    r"|could not (create|wait on) (a stream|an engine)\b(?! (of|for|from|to)\b)|\Aobject is not initialized"
    r"|kernel bundle|required sub-group size|work-items in a work-group|work-group size|does not have the \w+ aspect"
    r"|no device of requested type|enqueue process failed|initialize xpu|\bgpu hang|\b(gpu|device) (is |was )?wedged"
    r"|batch buffer was banned)"
)
DRIVER = "|".join((CONSTANTS, _FUNCTIONS, _LIBRARIES, _PHRASES))
"""Any text of a runtime."""

# Messages: PyTorch's XPU allocator and SYCL runtime (pytorch #177714, #190972; torch-xpu-ops #3155; unified-runtime's
# ur_result_t: 20 device lost, 39 out of device memory, 40 out of resources; PI's, which are OpenCL's: -4 no memory for
# an object, -5 out of resources, -6 out of host memory; Level Zero's ze_result_t: 1 device lost, 2 and 3 out of memory,
# 6 the device has to be reset). After CUDA's illegal access every later call of the process fails, as on a lost device.
DEVICE_LOST = (
    r"DEVICE_LOST|DEVICE_REQUIRES_RESET|(?i:\bdevice lost\b(?! *\w))|PI_ERROR_DEVICE_NOT_AVAILABLE"
    rf"|CUDA error: an illegal memory access|{RUNTIME}20\b|{_LEVEL_ZERO}[16]\b"
)
ALLOCATION_TOO_LARGE = (
    r"INVALID_BUFFER_SIZE|(?i:exceeds? .*(single|maximum|max).*alloc"
    r"|can ?not allocate memory block with size larger|larger than the device.*allocation)"
)
OUT_OF_MEMORY = (
    r"OUT_OF_DEVICE_MEMORY|OUT_OF_HOST_MEMORY|OUT_OF_RESOURCES|\b(dnnl_)?out_of_memory\b"
    r"|(?i:(\A|[:(.,;\]\n] *|\b(xpu|cuda|hip|gpu|device|backend|with) )out of memory\b"
    r"|can't allocate memory|\bnot enough memory: )"
    rf"|{RUNTIME}(39|40|-[456])\b|{_LEVEL_ZERO}[23]\b"
)
_DTYPES = r"'(Bool|Byte|Char|Short|Int|Long|UInt\d+|Half|BFloat16|Float|Double|Float[48]_\w+|Complex\w+)'"
OPERATOR_MISSING = (
    r"UR_RESULT_ERROR_INVALID_ARGUMENT|UNSUPPORTED_FEATURE|Required aspect fp(64|16)|does not have the fp(64|16) aspect"
    r"|doesn't support tensor of type|not supported (on the device|in oneDNN)"
    r"|Could not run '.*' (with arguments )?from the"
    rf"|not (currently )?implemented for ({_DTYPES}|(?i:(the )?(xpu|cuda|cpu|mps)\b))"
    r"|(?i:no kernel (image is available|named \S+ was found)|DispatchStub: missing kernel)"
)
MISPLACED = (
    r"(?i:expected all tensors to be on the same device|found at least two devices|either on cpu or on the same device"
    r"|but expected (it|them) to be on (cpu|gpu|the same)|weight type \([\w.]+\) should be the same)"
)
