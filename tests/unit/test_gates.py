"""Which formats a device multiplies in: tested once, kept, and not asked again of a driver that did not survive it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.machine.cache import DIRECTORY_VARIABLE
from xpu_utils.machine.devices import Device, find_devices
from xpu_utils.selftest import products
from xpu_utils.selftest.gates import FAILED, UNENDED, GateTests, as_text
from xpu_utils.selftest.products import FORMATS, Packed, Product, Way, check_product, held_in_int8

from .recorded import b580

ROOT = Path(__file__).parents[2]
ENDING = """
import os, sys, threading, time
from tests.unit.recorded import b580
from xpu_utils.selftest.gates import GateTests

def check(device, name):
    if sys.argv[1] == "crash":
        os._exit(1)
    testing.set()
    time.sleep(60)

testing = threading.Event()
threading.Thread(target=GateTests(check).product, args=(b580(), "int8"), daemon=True).start()
testing.wait(60)
"""
"""A process that ends within a test, by itself or as ComfyUI does after Ctrl-C."""
FASTER = Product("int8", relative_error=0.001, seconds=1.0, unpacked_seconds=2.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))


@pytest.mark.parametrize(
    ("product", "way"),
    [
        (FASTER, Way.NATIVE),
        (Product("int8", relative_error=0.001, seconds=2.0, unpacked_seconds=1.0), Way.EMULATED),
        (Product("int8", relative_error=0.5, seconds=1.0, unpacked_seconds=2.0), Way.EMULATED),
        (Product("int8", relative_error=float("inf"), seconds=1.0, unpacked_seconds=2.0), Way.EMULATED),
        (Product("int8", problem="not implemented"), Way.EMULATED),
        (Product("int8", unpack_problem="no kernel"), Way.REFUSED),
    ],
)
def test_a_gate_is_open_where_the_own_product_is_right_and_faster(product: Product, way: Way) -> None:
    assert product.way is way
    assert GateTests(check=lambda device, name: product).is_open(b580(), "int8") == (way is Way.NATIVE)


def test_a_format_is_tested_once_and_kept_for_the_next_process() -> None:
    asked: list[str] = []

    def check(device: Device, name: str) -> Product:
        asked.append(name)
        return FASTER

    for tests in (GateTests(check), GateTests(check)):  # a process and the next
        assert tests.known(b580()) == ((FASTER,) if asked else ())
        assert [tests.product(b580(), "int8") for _ in range(2)] == [FASTER] * 2
    assert asked == ["int8"]


def test_a_driver_that_hangs_is_not_asked_again() -> None:
    never = threading.Event()
    hanging = GateTests(check=lambda *_: never.wait(60) and FASTER, time_limit_seconds=0.1)  # type: ignore[arg-type, return-value]
    for tests in (hanging, GateTests(check=lambda *_: FASTER)):  # and the next process
        assert tests.product(b580(), "int8").problem == UNENDED
    never.set()


@pytest.mark.parametrize(("how", "problem"), [("crash", UNENDED), ("end", "")])
def test_only_a_process_that_a_test_ended_shuts_a_gate(how: str, problem: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ENDING, how], cwd=ROOT, timeout=600, check=False)
    assert GateTests(check=lambda *_: FASTER).product(b580(), "int8").problem == problem
    assert list(tmp_path.glob("*.testing")) == []


def test_processes_that_test_at_once_take_nothing_from_each_other() -> None:
    def check(device: Device, name: str) -> Product:
        if name == "int8":  # another process asks meanwhile
            assert other.product(device, name) == FASTER
            other.product(device, "fp8_e4m3")
        return Product(name, relative_error=0.001, seconds=1.0, unpacked_seconds=2.0)

    other = GateTests(check=lambda device, name: Product(name, relative_error=0.001, seconds=1.0, unpacked_seconds=2.0))
    assert GateTests(check).product(b580(), "int8") == FASTER
    assert [product.format for product in GateTests().known(b580())] == ["fp8_e4m3", "int8"]


@pytest.mark.parametrize(
    "found",
    [
        Product("int8", problem="XPU out of memory. Tried to allocate 24.00 MiB."),
        Product("int8", unpack_problem="level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"),
        None,
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_tells_nothing_of_the_device_is_not_kept(found: Product | None) -> None:
    def check(device: Device, name: str) -> Product:
        if found is None:
            raise MemoryError
        return found

    tests = GateTests(check)
    assert tests.product(b580(), "int8") == (found or Product("int8", problem=FAILED))
    assert not tests.is_open(b580(), "int8")
    assert GateTests(check=lambda *_: FASTER).is_open(b580(), "int8"), "the next process asks again"


def test_another_triton_has_its_kernels_tested_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("fp8_e4m3", held_in_int8())
    for name in names:
        GateTests(check=lambda *_: FASTER).product(b580(), name)
    triton = tmp_path / "triton" / "__init__.py"
    triton.parent.mkdir()
    triton.write_text("__version__ = '99'")
    monkeypatch.syspath_prepend(tmp_path)
    asked: list[str] = []

    def check(device: Device, name: str) -> Product:
        asked.append(name)
        return FASTER

    tests = GateTests(check)
    for name in names:
        tests.product(b580(), name)
    assert asked == [held_in_int8()]


@pytest.mark.parametrize("name", FORMATS)
def test_the_processor_multiplies_rightly_in_every_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "CHECKED", (32, 64, 64))
    monkeypatch.setattr(products, "HOPELESS", 0)  # the times are not the point
    found = check_product(find_devices().devices[-1], name)
    assert found.unpack_problem == ""
    assert found.right == (name not in ("4 bits", "nvfp4", "mxfp8")), found.problem


def test_nothing_is_said_of_a_device_of_which_nothing_is_known() -> None:
    assert as_text([b580(driver_version="new")]) == ""


def test_sums_that_are_cut_off_at_16_bits_are_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def multiply(x: Packed, weights: Packed, dtype: torch.dtype) -> torch.Tensor:
        """As AVX2 does: offset to be unsigned, products added by twos."""
        tokens, values = x[0].int() + 128, weights[0].int()
        pairs = (tokens[:, None] * values).unflatten(-1, (-1, 2)).sum(-1)
        sums = pairs.clamp(-(1 << 15), (1 << 15) - 1).sum(-1) - 128 * values.sum(-1)
        return (sums.float() * x[1] * weights[1].flatten()).to(dtype)

    whole = dataclasses.replace(FORMATS[held_in_int8()], timed=products.CHECKED)
    cut = dataclasses.replace(whole, multiply=multiply)
    monkeypatch.setattr(products, "FORMATS", {"whole": whole, "cut": cut})
    (cpu,) = (device for device in find_devices().devices if device.type == "cpu")
    assert [check_product(cpu, name).right for name in ("whole", "cut")] == [True, False]


@given(inputs=st.integers(64, 20_000), outputs=st.integers(64, 20_000))
def test_a_layer_of_any_size_has_a_gate(inputs: int, outputs: int) -> None:
    assert held_in_int8(inputs, outputs) in FORMATS
