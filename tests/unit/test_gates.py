"""Which formats a device multiplies in: tested once, kept, and not asked again of a driver that did not survive it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from xpu_utils.machine.cache import DIRECTORY_VARIABLE
from xpu_utils.machine.devices import Device, find_devices
from xpu_utils.selftest import products
from xpu_utils.selftest.gates import UNENDED, GateTests, as_text
from xpu_utils.selftest.products import FORMATS, Product, Way, check_product

from .recorded import b580

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


def test_a_driver_that_ends_the_process_or_hangs_is_not_asked_again() -> None:
    def ends(device: Device, name: str) -> Product:
        kept = GateTests(check=lambda *_: pytest.fail("asked again"))  # the next process, after this one's end
        assert kept.product(device, name).problem == UNENDED
        return FASTER

    assert GateTests(ends).product(b580(), "int8") == FASTER
    never = threading.Event()
    hanging = GateTests(check=lambda *_: never.wait(60) and FASTER, time_limit_seconds=0.1)  # type: ignore[arg-type, return-value]
    assert hanging.product(b580(driver_version="hangs"), "int8").problem == UNENDED
    never.set()


@pytest.mark.parametrize("name", FORMATS)
def test_the_processor_multiplies_rightly_in_every_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "CHECKED", (32, 64, 64))
    monkeypatch.setattr(products, "HOPELESS", 0)  # the times are not the point
    found = check_product(find_devices().devices[-1], name)
    assert found.unpack_problem == ""
    assert found.right or found.problem == "there is no product in this format"


def test_nothing_is_said_of_a_device_of_which_nothing_is_known() -> None:
    assert as_text([b580(driver_version="new")]) == ""
