"""Why Intel GPUs are not used: the doctor's own reason for each that PyTorch does not show."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from xpu_utils.doctor.examine import examine
from xpu_utils.doctor.machine import RenderNode, look
from xpu_utils.doctor.unused import explained, unused
from xpu_utils.machine.devices import Rejection
from xpu_utils.machine.gpus import Gpu
from xpu_utils.machine.profiles import OVERRIDES_VARIABLE

from .broken_machines import BROKEN
from .healthy_machine import B580_ON_THE_BUS, CPU_BUILD, NOTHING, TWO_GPUS, UHD_630, WEDGED, inventory, machine
from .recorded import b580

UNKNOWN_TO_RUNTIME = "Driver, runtime and PyTorch are there, and still PyTorch shows no device"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"torch_build": CPU_BUILD, "packages": {}}, "PyTorch is a CPU build: torch 2.13.0+cpu"),
        (
            {"torch_build": CPU_BUILD, "environment": {"ZE_AFFINITY_MASK": "7"}, "packages": {}},
            "PyTorch is a CPU build",
        ),
        ({"environment": {"ONEAPI_DEVICE_SELECTOR": "opencl:*"}}, "ONEAPI_DEVICE_SELECTOR leaves 0 of 1"),
        ({"environment": {"ZE_AFFINITY_MASK": "7"}}, "ZE_AFFINITY_MASK leaves 0 of 1"),
        ({"environment": {"ZE_AFFINITY_MASK": "0.0"}}, UNKNOWN_TO_RUNTIME),
        ({"gpus": (Gpu(0xE20B, "", 0, integrated=False),)}, "Intel GPU 0xe20b has no driver"),
        ({"render_nodes": (RenderNode("renderD128", "render", usable=False),)}, "This user may not open renderD128"),
        ({"render_nodes": ()}, "There is no render node"),
        ({"level_zero_driver": ""}, "Intel's compute runtime (NEO) is not installed"),
        ({}, UNKNOWN_TO_RUNTIME),
    ],
)
def test_the_first_thing_in_the_way_is_the_reason(changes: dict[str, Any], why: str) -> None:
    (rejection,) = unused(machine(**{"inventory": NOTHING, **changes}))
    assert rejection.what == "Intel GPU 0xe20b"
    assert rejection.why.startswith(why)
    assert rejection.fix


@pytest.mark.parametrize("case", [case for case in BROKEN if BROKEN[case][0].get("inventory") is NOTHING])
def test_a_reason_is_one_of_the_doctors(case: str) -> None:
    broken = machine(**BROKEN[case][0])
    diagnosis = {(f"{entry.what}: {entry.evidence}", entry.fix_for(broken.system)) for entry in examine(broken)}
    assert diagnosis >= {(rejection.why, rejection.fix) for rejection in unused(broken)} != set()


def test_each_gpu_has_its_own_reason_and_those_that_work_have_none() -> None:
    gpus = (
        Gpu(0xE20B, "xe", 0, integrated=False, render_node="renderD128"),
        Gpu(0x56A0, "i915", 0, integrated=False, render_node="renderD129"),
        Gpu(0xA780, "", 0, integrated=True, pci_address="0000:00:02.0"),
    )
    nodes = (RenderNode("renderD128", "render", usable=True), RenderNode("renderD129", "render", usable=False))
    closed, bare = unused(machine(gpus=gpus, render_nodes=nodes))
    assert (closed.what, bare.what) == ("Intel GPU 0x56a0 (renderD129)", "Intel GPU 0xa780 (0000:00:02.0)")
    assert closed.why == "This user may not open renderD129: it belongs to the group render"
    assert bare.why.startswith("Intel GPU 0xa780 has no driver")
    assert unused(machine()) == []


def test_an_integrated_gpu_that_pytorch_leaves_out_beside_a_card_is_nothing_to_mend() -> None:
    (rejection,) = unused(machine(gpus=TWO_GPUS))
    assert rejection.what == "Intel GPU 0xa780"
    assert rejection.why.startswith("PyTorch leaves integrated GPUs out where there is a card with memory of its own")
    (driverless,) = unused(machine(gpus=(TWO_GPUS[0], dataclasses.replace(TWO_GPUS[1], driver=""))))
    assert driverless.why.startswith("Intel GPU 0xa780 has no driver")


def test_a_gpu_that_has_stopped_is_told_apart_from_one_that_has_not() -> None:
    gpus = (B580_ON_THE_BUS, dataclasses.replace(TWO_GPUS[1], pci_address="0000:00:02.0"))
    stopped, other = unused(machine(gpus=gpus, given_up=WEDGED, inventory=NOTHING))
    assert stopped.why == f"The GPU has stopped and stays away until the machine is restarted: {WEDGED}"
    assert "0xa780" in other.what
    assert "stopped" not in other.why


def test_a_gpu_that_is_too_old_is_told_so_whatever_else_is_missing() -> None:
    (rejection,) = unused(machine(gpus=(UHD_630,), torch_build=CPU_BUILD, render_nodes=(), inventory=NOTHING))
    assert rejection.why.startswith("Intel GPU 0x3e92 is too old for PyTorch")


@pytest.mark.parametrize("environment", [{"ZE_AFFINITY_MASK": "0"}, {"ONEAPI_DEVICE_SELECTOR": "level_zero:0"}])
def test_a_variable_that_names_one_gpu_is_why_the_other_is_hidden(environment: dict[str, str]) -> None:
    (rejection,) = unused(machine(environment=environment, gpus=TWO_GPUS))
    ((name, value),) = environment.items()
    assert rejection.what == "Intel GPU 0xa780"
    assert f"{name}={value}" in rejection.why


def test_without_any_gpu_there_is_one_reason_for_all() -> None:
    (rejection,) = unused(machine(gpus=(), inventory=NOTHING))
    assert (rejection.what, rejection.why) == ("xpu", "This system shows no Intel GPU: kernel 6.12.48-amd64")


@pytest.mark.parametrize("what", ["xpu", "xpu:0"])
def test_a_gpu_whose_driver_failed_has_its_reason_already(what: str) -> None:
    failed = dataclasses.replace(NOTHING, rejected=(Rejection(what, "its driver failed", "restart"),))
    assert unused(machine(inventory=failed)) == []
    misread = dataclasses.replace(NOTHING, rejected=(Rejection(OVERRIDES_VARIABLE, "wrong", "mend it"),))
    assert len(unused(machine(inventory=misread))) == 1


def test_the_reason_of_a_gpu_that_failed_is_not_that_of_another_one() -> None:
    failed = dataclasses.replace(NOTHING, rejected=(Rejection("xpu:0", "its driver failed", "restart"),))
    (rejection,) = unused(machine(inventory=failed, gpus=TWO_GPUS))
    assert rejection.what == "Intel GPU 0xa780"
    assert rejection.why.startswith(UNKNOWN_TO_RUNTIME)


def test_the_reasons_stand_beside_those_that_are_known() -> None:
    known = dataclasses.replace(inventory(b580()), rejected=(Rejection("cuda", "another build", "install it"),))
    assert explained(known).rejected[0] == known.rejected[0]


def gpu_folder(sysfs: Path, address: str, node: str, **files: str) -> Path:
    folder = sysfs / "bus" / "pci" / "devices" / address
    (folder / "drm" / node).mkdir(parents=True)
    (sysfs / "class" / "drm" / node).mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_the_render_node_of_another_maker_is_not_looked_at(tmp_path: Path) -> None:
    gpu_folder(tmp_path, "0000:01:00.0", "renderD128", vendor="0x10de", device="0x2684", **{"class": "0x030000"})
    gpu_folder(tmp_path, "0000:03:00.0", "renderD129", vendor="0x8086", device="0xe20b", **{"class": "0x030000"})
    dri = tmp_path / "dri"
    dri.mkdir()
    for number in (128, 129, 130):
        (dri / f"renderD{number}").touch()
    (dri / "renderD131").symlink_to("nowhere")
    found = look(sysfs=tmp_path, dri=dri)
    assert [(gpu.pci_device_id, gpu.render_node) for gpu in found.gpus] == [(0xE20B, "renderD129")]
    assert [node.path for node in found.render_nodes] == ["renderD129", "renderD130"]


def test_where_a_container_has_another_maker_s_render_node_alone_intel_s_is_missing(tmp_path: Path) -> None:
    gpu_folder(tmp_path, "0000:01:00.0", "renderD128", vendor="0x10de", device="0x2684", **{"class": "0x030000"})
    folder = gpu_folder(
        tmp_path, "0000:03:00.0", "renderD129", vendor="0x8086", device="0xe20b", **{"class": "0x030000"}
    )
    (folder / "driver").symlink_to("../../../../bus/pci/drivers/xe")
    dri = tmp_path / "dri"
    dri.mkdir()
    (dri / "renderD128").touch()
    found = look(sysfs=tmp_path, dri=dri)
    (missing,) = (finding for finding in examine(found) if finding.code == "render-missing")
    assert missing.evidence == "/dev/dri has no renderD* of an Intel GPU"


def test_a_gpu_of_which_sysfs_tells_nothing_readable_ends_nothing(tmp_path: Path) -> None:
    folder = gpu_folder(tmp_path, "0000:03:00.0", "card0", vendor="0x8086", **{"class": "0x030000"})
    (folder / "resource").write_bytes(b"0x10 0x1f\n\xff")
    (folder / "device").symlink_to("nowhere")
    gpu_folder(tmp_path, "0000:04:00.0", "card1", vendor="?", **{"class": "0x030000"})
    (gpu,) = look(sysfs=tmp_path, dri=tmp_path / "missing").gpus
    assert (gpu.pci_device_id, gpu.driver, gpu.largest_bar_bytes) == (0, "", 0)
