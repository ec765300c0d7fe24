"""The self-test: what a device computes wrongly is found, kept, and avoided by precision auto."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
import torch

from xpu_utils.machine.cache import DIRECTORY_VARIABLE, cache_directory
from xpu_utils.machine.devices import Device
from xpu_utils.machine.profiles import Architecture
from xpu_utils.selftest.operations import EMPTIED, Result, check, operations
from xpu_utils.selftest.result import SelfTest, SelfTests, best_precision

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

    def tested(self, device: Device) -> SelfTest:
        return self.process().of(device)


@pytest.fixture
def kernels() -> Kernels:
    return Kernels()


def test_a_right_device_passes_in_every_precision_and_head_dim(kernels: Kernels) -> None:
    found = kernels.tested(b580())
    assert found.finished
    assert found.precisions == ("fp32", "bf16", "fp16")
    assert not any(found.wrong_head_dims(precision) for precision in found.precisions)
    names = {name for name, _ in kernels.checks}
    assert {"matrix product", "convolution", "group norm", "layer norm"} <= names
    assert {f"attention, head dim {size}" for size in (40, 64, 80, 96, 128, 160)} <= names


def test_what_may_end_the_process_is_left_to_the_doctor(kernels: Kernels) -> None:
    kernels.tested(b580())
    assert "sliced convolution 3d" in operations()
    assert "sliced convolution 3d" not in {name for name, _ in kernels.checks}


@pytest.mark.parametrize("problem", ["inaccurate", "the answer is not finite", "not implemented for 'BFloat16'"])
def test_a_wrong_operation_rules_its_precision_out(
    kernels: Kernels, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.wrong = lambda name, precision: problem if (name, precision) == ("convolution", "bf16") else ""
    found = kernels.tested(b580())
    assert found.precisions == ("fp32", "fp16")
    assert best_precision(b580(), found) == "fp16"
    assert "xpu:0 computes convolution wrongly in bf16" in caplog.text


def test_attention_that_is_wrong_at_one_head_dim_leaves_the_precision_and_is_told(
    kernels: Kernels, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.wrong = lambda name, precision: "inaccurate" if name.endswith(" 40") and precision == "bf16" else ""
    process = kernels.process()
    device = b580()
    assert not process.attends_wrongly(device.torch_device, 40, torch.bfloat16), "not tested: taken to be right"
    found = process.of(device)
    assert best_precision(device, found) == "bf16"
    assert process.attends_wrongly(device.torch_device, 40, torch.bfloat16)
    assert not process.attends_wrongly(device.torch_device, 64, torch.bfloat16)
    assert not process.attends_wrongly(device.torch_device, 40, torch.float16)
    assert not process.attends_wrongly(b580(index=1).torch_device, 40, torch.bfloat16)
    assert "head dim 40 wrongly in bf16 (error 0.5): it is computed another way there." in caplog.text


def test_attention_that_is_wrong_at_every_head_dim_rules_its_precision_out(kernels: Kernels) -> None:
    kernels.wrong = lambda name, precision: "inaccurate" if name.startswith("att") and precision == "bf16" else ""
    assert best_precision(b580(), kernels.tested(b580())) == "fp16"


def test_a_device_whose_results_do_not_outlive_the_emptying_of_the_cache_is_known(
    kernels: Kernels, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.wrong = lambda name, precision: "the answer is not finite" if name == EMPTIED else ""
    process, device = kernels.process(), b580()
    assert process.of(device).precisions == ("fp32", "bf16", "fp16"), "what it computes is right"
    assert not process.keeps_results(device)
    assert "not finite): something of everything there is read before that." in caplog.text
    cached = cache_directory().glob("*")
    for file in cached:
        file.unlink()
    right, alchemist = Kernels().process(), xpu(architecture=Architecture.ALCHEMIST)
    for other in (device, alchemist):
        assert not right.keeps_results(other), "not tested"
        assert right.of(other).keeps_results
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
    assert best_precision(device, kernels.tested(device)) == precision


def test_the_result_is_kept_for_the_next_process(kernels: Kernels) -> None:
    kernels.wrong = lambda _name, precision: "inaccurate" if precision == "fp16" else ""
    found = kernels.tested(b580())
    kernels.checks.clear()
    assert kernels.tested(b580(index=1)) == found, "the same model with the same driver is one result"
    assert not kernels.checks


@pytest.mark.parametrize("change", ["driver", "torch", "damaged"])
def test_it_is_made_again_for_another_driver_or_torch_or_a_damaged_file(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, cache: Path, change: str
) -> None:
    kernels.tested(b580())
    kernels.checks.clear()
    device = b580(driver_version="newer") if change == "driver" else b580()
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    if change == "damaged":
        (file,) = cache.iterdir()
        file.write_text('{"results": [{}]}')
    assert kernels.tested(device).finished
    assert kernels.checks


@pytest.mark.parametrize("problem", ["XPU out of memory. Tried to allocate 2 MiB.", "UR_RESULT_ERROR_DEVICE_LOST"])
def test_a_failure_of_the_moment_is_neither_wrong_nor_kept(kernels: Kernels, cache: Path, problem: str) -> None:
    kernels.wrong = lambda name, _precision: problem if name == "convolution" else ""
    found = kernels.tested(b580())
    assert not found.finished
    assert found.precisions == ("fp32", "bf16", "fp16")
    assert not cache.exists()


def test_a_device_that_hangs_costs_the_time_limit_only(kernels: Kernels) -> None:
    released = threading.Event()

    def hang(name: str, precision: str) -> str:
        if (name, precision) == ("convolution", "fp32"):
            released.wait(30)
        return ""

    kernels.wrong = hang
    found = kernels.process(0.2).of(b580())
    asked = len(kernels.checks)
    released.set()
    for thread in threading.enumerate():
        if thread.name == "self-test of xpu:0":
            thread.join()
    assert not found.finished
    assert [result.name for result in found.results] == ["matrix product"] * 3
    assert len(kernels.checks) == asked, "nothing more is started on the device"

    kernels.checks.clear()
    assert kernels.tested(b580()).finished
    assert kernels.checks[0] == ("convolution", "fp32"), "the next process goes on from there"


def test_a_cache_that_cannot_be_written_does_no_harm(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(file / "below"))
    assert kernels.tested(b580()).finished
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


def test_the_result_cannot_be_changed() -> None:
    found = SelfTest("name", "1", "2", (), finished=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.finished = False  # type: ignore[misc]
