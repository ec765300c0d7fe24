"""The self-test: what a device computes wrongly is found, kept, and avoided by precision auto."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch

from xpu_utils.machine.cache import DIRECTORY_VARIABLE, cache_directory
from xpu_utils.machine.devices import Device
from xpu_utils.machine.profiles import Architecture
from xpu_utils.selftest.attention import ATTEND, Attending, AttentionTimes, ShapeClass, measure_attention
from xpu_utils.selftest.operations import EMPTIED, TOLERANCES, Result, check, operations
from xpu_utils.selftest.result import SelfTests, best_precision

from .recorded import b580, xpu


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


class Kernels:
    """A device that computes as the CPU does, but for what is set; counts its checks."""

    def __init__(self) -> None:
        self.checks: list[tuple[str, str]] = []
        self.wrong: Callable[[str, str], str] = lambda _name, _precision: ""
        """A problem for an operation in a precision; "inaccurate" for an answer that is off."""

    def check(self, _device: str, name: str, precision: str) -> Result:
        self.checks.append((name, precision))
        problem = self.wrong(name, precision)
        if problem == "inaccurate":
            return Result(name, precision, 0.5)
        return Result(name, precision, None, problem) if problem else check("cpu", name, precision)

    def process(self, time_limit_seconds: float = 60.0) -> SelfTests:
        """What a process that begins now knows."""
        return SelfTests(self.check, time_limit_seconds)

    def right(self, device: Device) -> list[str]:
        """The precisions that a new process finds to be computed right."""
        process = self.process()
        return [precision for precision in TOLERANCES if process.computes(device, precision)]

    def best(self, device: Device) -> str:
        return best_precision(device, self.process().computes)


@pytest.fixture
def kernels() -> Kernels:
    return Kernels()


def test_a_right_device_passes_in_every_precision(kernels: Kernels) -> None:
    assert kernels.right(b580()) == ["fp32", "bf16", "fp16"]
    names = {name for name, _ in kernels.checks}
    assert {"matrix product", "convolution", "group norm", "layer norm", "attention, head dim 64"} <= names


def test_a_placement_waits_for_the_precision_that_it_asks_for_only(kernels: Kernels) -> None:
    assert kernels.process().computes(b580(), "bf16")
    assert {precision for _, precision in kernels.checks} == {"bf16"}
    assert [name for name, _ in kernels.checks if name.startswith("attention")] == ["attention, head dim 64"]


def test_a_head_dim_is_tested_when_attention_first_has_it(kernels: Kernels) -> None:
    process = kernels.process()
    for _ in range(2):
        assert not process.attends_wrongly(b580(), 128, torch.bfloat16)
    assert kernels.checks == [("attention, head dim 128", "bf16")]
    assert not kernels.process().attends_wrongly(b580(), 128, torch.bfloat16)
    assert len(kernels.checks) == 1, "kept for the next process"
    for head_dim, dtype in ((72, torch.bfloat16), (64, torch.float64)):
        assert not process.attends_wrongly(b580(), head_dim, dtype)
    assert len(kernels.checks) == 1, "nothing tells what is right there"


SELF_ATTENTION = (2, 10, 4096, 64)


class Attends:
    """A device on which the ways to attend take so many seconds; counts its measurements."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = {Attending[name]: value for name, value in seconds.items()}
        self.measured: list[ShapeClass] = []
        self.problem = ""

    def measure(self, _device: str, shapes: ShapeClass, *_: object) -> AttentionTimes | Result:
        self.measured.append(shapes)
        return Result("", "bf16", None, self.problem) if self.problem else AttentionTimes(shapes, self.seconds)

    def process(self) -> Callable[..., Attending]:
        """How a process that begins now attends."""
        tests = SelfTests(measure=self.measure)
        return functools.partial(tests.attends_by, b580(), dtype=torch.bfloat16, masked=False, most_bytes=1 << 30)


@pytest.mark.parametrize(
    ("seconds", "way"),
    [
        ({"OWN": 1.0, "PRODUCTS": 0.3}, Attending.PRODUCTS),
        ({"OWN": 1.0, "FP32_SCORES": 0.5, "PRODUCTS": 0.95}, Attending.FP32_SCORES),
        ({"OWN": 1.0, "PRODUCTS": 0.95}, Attending.OWN),
    ],
)
def test_attention_goes_the_way_that_is_clearly_fastest(seconds: dict[str, float], way: Attending) -> None:
    assert Attends(**seconds).process()(SELF_ATTENTION, SELF_ATTENTION) is way


def test_a_class_of_attention_is_measured_once_for_all_processes() -> None:
    device = Attends(OWN=1.0, PRODUCTS=0.3)
    for attends in (device.process(), device.process()):
        for tokens in (4096, 5000):
            assert attends((2, 10, tokens, 64), (2, 10, tokens, 64)) is Attending.PRODUCTS
    assert device.measured == [ShapeClass(64, "bf16", 1 << 30, False)]
    process = device.process()
    process(SELF_ATTENTION, (2, 10, 77, 64), masked=True)
    process((2, 10, 256, 64), (2, 10, 256, 64))
    process(SELF_ATTENTION, SELF_ATTENTION, dtype=torch.float32)
    assert len(device.measured) == 1, "there is little to gain"
    process((4, 20, 4096, 64), (4, 20, 77, 64), masked=True)
    assert device.measured[1:] == [ShapeClass(64, "bf16", 128, True)]


def test_attention_that_memory_was_too_short_to_measure_is_measured_another_time() -> None:
    device = Attends(OWN=1.0, PRODUCTS=0.3)
    device.problem = "XPU out of memory. Tried to allocate 2 MiB."
    attends = device.process()
    for _ in range(2):
        assert attends(SELF_ATTENTION, SELF_ATTENTION) is Attending.OWN
    assert len(device.measured) == 1, "not in each call"
    device.problem = ""
    assert device.process()(SELF_ATTENTION, SELF_ATTENTION) is Attending.PRODUCTS


def test_ways_to_attend_that_are_wrong_or_missing_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, shapes = (1, 2, 64, 40), ShapeClass(40, "bf16", 128, True)
    times = measure_attention("cpu", shapes, shape, shape, 1 << 30)
    assert isinstance(times, AttentionTimes)
    assert {Attending.OWN, Attending.PRODUCTS} <= {*times.seconds}
    monkeypatch.setitem(ATTEND, Attending.PRODUCTS, lambda q, k, v, mask: ATTEND[Attending.OWN](q * 2, k, v, mask))
    times = measure_attention("cpu", shapes, shape, shape, 1 << 30)
    assert isinstance(times, AttentionTimes)
    assert Attending.PRODUCTS not in times.seconds


def test_attention_from_fewer_queries_than_keys_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.nn.functional.scaled_dot_product_attention

    def wrong(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **keywords: Any) -> torch.Tensor:
        off = q.dtype == torch.bfloat16 and q.shape[-1] > 128 and q.shape[2] < k.shape[2]
        return own(q, k, v, **keywords) * (1.5 if off else 1)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong)
    assert not check("cpu", "attention, head dim 160", "bf16").right
    assert check("cpu", "attention, head dim 128", "bf16").right


def test_what_may_end_the_process_is_left_to_the_doctor(kernels: Kernels) -> None:
    kernels.right(b580())
    assert "sliced convolution 3d" in operations()
    assert "sliced convolution 3d" not in {name for name, _ in kernels.checks}


@pytest.mark.parametrize("problem", ["inaccurate", "the answer is not finite", "not implemented for 'BFloat16'"])
def test_a_wrong_operation_rules_its_precision_out(
    kernels: Kernels, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.wrong = lambda name, precision: problem if (name, precision) == ("convolution", "bf16") else ""
    assert kernels.right(b580()) == ["fp32", "fp16"]
    assert kernels.best(b580()) == "fp16"
    assert "xpu:0 computes convolution wrongly in bf16" in caplog.text


@pytest.mark.parametrize("wrong", [40, 64])
def test_attention_that_is_wrong_at_one_head_dim_leaves_the_precision_and_is_told(
    kernels: Kernels, caplog: pytest.LogCaptureFixture, wrong: int
) -> None:
    kernels.wrong = lambda name, precision: "inaccurate" if name.endswith(f" {wrong}") and precision == "bf16" else ""
    process = kernels.process()
    assert best_precision(b580(), process.computes) == "bf16"
    assert process.attends_wrongly(b580(), wrong, torch.bfloat16)
    assert not process.attends_wrongly(b580(), 128, torch.bfloat16)
    assert not process.attends_wrongly(b580(), wrong, torch.float16)
    assert not process.attends_wrongly(b580(driver_version="another"), 128, torch.bfloat16)
    assert f"head dim {wrong} wrongly in bf16 (error 0.5): it is computed another way there." in caplog.text


def test_attention_that_is_wrong_at_every_head_dim_rules_its_precision_out(kernels: Kernels) -> None:
    kernels.wrong = lambda name, precision: "inaccurate" if name.startswith("att") and precision == "bf16" else ""
    assert kernels.best(b580()) == "fp16"


def test_a_device_whose_results_do_not_outlive_the_emptying_of_the_cache_is_known(
    kernels: Kernels, caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    kernels.wrong = lambda name, _precision: "the answer is not finite" if name == EMPTIED else ""
    process, device = kernels.process(), b580()
    process.test_emptying(device)
    assert process.computes(device, "fp32"), "what it computes is right"
    assert not process.keeps_results(device)
    assert "not finite): something of everything there is read before that." in caplog.text
    for file in cache.iterdir():
        file.unlink()
    right, alchemist = Kernels().process(), xpu(architecture=Architecture.ALCHEMIST)
    for other in (device, alchemist):
        assert right.computes(other, "fp32")
        assert not right.keeps_results(other), "not tested: a placement does not empty the cache"
        right.test_emptying(other)
    assert right.keeps_results(device)
    assert not right.keeps_results(alchemist), "its profile says so"


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        (b580(), "bf16"),
        (b580(bf16=False), "fp16"),
        (b580(bf16=False, fp16=False), "fp32"),
        (xpu(architecture=Architecture.XE_LP), "fp16"),
        (xpu(type="cpu", index=None), "fp32"),
    ],
)
def test_auto_is_the_first_precision_that_the_device_has(kernels: Kernels, device: Device, precision: str) -> None:
    assert kernels.best(device) == precision


def test_the_result_is_kept_for_the_next_process(kernels: Kernels) -> None:
    kernels.wrong = lambda _name, precision: "inaccurate" if precision == "fp16" else ""
    found = kernels.right(b580())
    kernels.checks.clear()
    assert kernels.right(b580(index=1)) == found, "the same model with the same driver is one result"
    assert not kernels.checks


@pytest.mark.parametrize("change", ["driver", "torch", "damaged"])
def test_it_is_made_again_for_another_driver_or_torch_or_a_damaged_file(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, cache: Path, change: str
) -> None:
    kernels.right(b580())
    kernels.checks.clear()
    device = b580(driver_version="newer") if change == "driver" else b580()
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    if change == "damaged":
        (file,) = cache.iterdir()
        file.write_text('{"results": [{}]}')
    assert kernels.right(device)
    assert kernels.checks


@pytest.mark.parametrize("problem", ["XPU out of memory. Tried to allocate 2 MiB.", "UR_RESULT_ERROR_DEVICE_LOST"])
def test_a_failure_of_the_moment_is_neither_wrong_nor_kept(
    kernels: Kernels, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.wrong = lambda name, _precision: problem if name == "convolution" else ""
    assert kernels.right(b580()) == ["fp32", "bf16", "fp16"]
    assert "did not finish" in caplog.text
    kernels.checks.clear()
    kernels.wrong = lambda _name, _precision: ""
    kernels.right(b580())
    assert ("convolution", "bf16") in kernels.checks


def test_a_device_that_hangs_costs_the_time_limit_only(kernels: Kernels) -> None:
    released = threading.Event()

    def hang(name: str, _precision: str) -> str:
        if name == "convolution":
            released.wait(30)
        return ""

    kernels.wrong = hang
    assert kernels.process(0.2).computes(b580(), "fp32"), "what it did not reach is taken to be right"
    asked = list(kernels.checks)
    released.set()
    for thread in threading.enumerate():
        if thread.name == "self-test of xpu:0":
            thread.join()
    assert kernels.checks == asked == [("matrix product", "fp32"), ("convolution", "fp32")]

    kernels.checks.clear()
    assert kernels.process().computes(b580(), "fp32")
    assert kernels.checks[0] == ("convolution", "fp32"), "the next process goes on from there"


def test_a_cache_that_cannot_be_written_does_no_harm(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(file / "below"))
    assert kernels.right(b580())
    assert "cannot be kept" in caplog.text


def test_the_cache_is_where_the_system_keeps_such_things_or_where_the_user_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, "/chosen")
    assert cache_directory() == Path("/chosen")
    monkeypatch.delenv(DIRECTORY_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")  # read on Linux only
    assert cache_directory().name == "xpu-nodes"
    assert cache_directory() == Path(platformdirs.user_cache_dir()) / "xpu-nodes"
