"""The doctor on a healthy machine and on broken ones: each finding with its evidence and a fix for every system."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from xpu_utils.doctor import machine as machine_module
from xpu_utils.doctor import probe
from xpu_utils.doctor.examine import as_data, as_text, attachment, examine
from xpu_utils.doctor.findings import REPOSITORY, SYSTEMS, State, exit_code
from xpu_utils.doctor.machine import RenderNode
from xpu_utils.machine import windows
from xpu_utils.machine.gpus import Gpu
from xpu_utils.machine.kernel_log import given_up
from xpu_utils.selftest.operations import Result

from .broken_machines import BROKEN
from .healthy_machine import B580_ON_THE_BUS, NOTHING, UHD_630, WEDGED, WINDOWS, WSL, inventory, machine, torch_build
from .recorded import GIB, b580, lay_out

ROOT = Path(__file__).parents[2]
DOCUMENTATION = ROOT / "docs" / "doctor.md"


def test_a_healthy_machine_has_only_good_findings() -> None:
    found = examine(machine())
    assert {finding.state for finding in found} == {State.OK}
    assert exit_code(found) == 0
    assert {finding.code for finding in found} >= {"kernel-driver", "torch-xpu", "device", "level-zero", "pyzes"}


@pytest.mark.parametrize(
    "environment", [{"ONEAPI_DEVICE_SELECTOR": "level_zero:1"}, {"ZE_AFFINITY_MASK": "1"}, {"ZE_AFFINITY_MASK": "0.1"}]
)
def test_the_second_tile_of_a_data_center_max_is_a_device(environment: dict[str, str]) -> None:
    card = Gpu(0x0BD5, "i915", 128 * GIB, integrated=False)
    found = examine(machine(gpus=(card,), environment=environment))
    assert not [finding.code for finding in found if finding.code in ("selector", "affinity-mask")]


def test_a_card_that_a_virtual_machine_has_needs_no_render_node() -> None:
    kept = Gpu(0x56A0, "vfio-pci", 0, integrated=False)
    nodes = (RenderNode("renderD128", "render", usable=True), RenderNode("renderD129", "video", usable=False))
    found = examine(machine(gpus=(*machine().gpus, kept), render_nodes=nodes))
    assert not [finding.code for finding in found if finding.state in (State.ERROR, State.WARNING)]


def test_a_healthy_windows_machine_has_only_good_findings() -> None:
    found = examine(machine(**WINDOWS))
    assert {finding.state for finding in found} == {State.OK}
    assert {finding.code for finding in found} >= {"kernel-driver", "torch-xpu", "device", "level-zero", "pyzes"}


@pytest.mark.parametrize(
    "changes",
    [
        {"loader": "", "level_zero_driver": ""},  # of conda or Guix, or an alternative driver's
        {"render_nodes": (RenderNode("renderD128", "render", True), RenderNode("renderD129", "video", False))},
        {"render_nodes": (RenderNode("renderD128", "nogroup", False),)},
        {
            "packages": {"torchaudio": "2.11.0+cpu", "torchvision": "0.29.0+xpu"}
        },  # all operators of torchaudio are the CPU's
    ],
)
def test_where_the_device_works_what_lies_elsewhere_or_is_another_maker_s_is_no_error(changes: dict[str, Any]) -> None:
    found = examine(machine(**changes))
    assert {finding.state for finding in found} == {State.OK}
    assert "level-zero" in {finding.code for finding in found}


def test_in_wsl_a_device_that_works_needs_no_gpu_on_the_bus() -> None:
    assert {finding.state for finding in examine(machine(**{**WSL, "inventory": inventory(b580())}))} == {State.OK}


@pytest.mark.parametrize("changes", [{"dxg": False}, {"loader": ""}, {"level_zero_driver": ""}, {"dxcore": ""}, {}])
def test_in_wsl_the_first_thing_that_is_missing_is_the_only_error(changes: dict[str, Any]) -> None:
    codes = [finding.code for finding in examine(machine(**{**WSL, **changes})) if finding.state > State.OK]
    assert len(codes) == 1
    assert (codes == ["device-unknown-to-runtime"]) == (changes == {})


def test_in_wsl_a_pytorch_for_other_gpus_is_not_told_to_install_intel_s_drivers() -> None:
    others = machine(**{**WSL, "torch_build": torch_build(xpu=False, cuda=True), "packages": {}, "loader": ""})
    assert [finding.code for finding in examine(others) if finding.state > State.OK] == ["torch-not-xpu"]


def test_where_the_cause_is_known_the_runtime_is_not_blamed() -> None:
    for changes in ({"given_up": WEDGED, "gpus": (B580_ON_THE_BUS,)}, {"adapter_problem": "undefined symbol"}):
        codes = [entry.code for entry in examine(machine(**changes, inventory=NOTHING)) if entry.state > State.OK]
        assert codes == ["gpu-stopped" if "given_up" in changes else "adapter-broken"]


@pytest.mark.parametrize(
    "line", [WEDGED, "i915 0000:00:02.0: [drm] *ERROR* Failed to initialize GPU, declaring it wedged!"]
)
def test_the_kernel_s_log_is_read_where_this_user_may(line: str) -> None:
    log = f"[    1.0] Linux version 6.12\n[ 1234.5] {line}\n[ 1235.0] usb 1-1: reset failed"
    forbidden, missing = (sys.executable, "-c", "raise SystemExit(1)"), ("there-is-no-such-program",)
    told = (sys.executable, "-c", f"print({log!r})")
    assert given_up([forbidden, missing, told]) == f"[ 1234.5] {line}"
    assert given_up([(sys.executable, "-c", "print('xe 0000:03:00.0: [drm] fine')"), told]) == ""
    assert given_up([forbidden]) == ""


def test_a_library_of_pytorch_s_that_cannot_be_loaded_is_named_with_the_reason(tmp_path: Path) -> None:
    assert machine_module.adapter_problem([tmp_path, tmp_path / "missing"]) == ""
    (tmp_path / "libur_adapter_level_zero.so.0").write_text("half of a file")
    assert "libur_adapter_level_zero.so.0" in machine_module.adapter_problem([tmp_path])


def test_oneapi_that_is_installed_on_windows_is_not_taken_for_sourced() -> None:
    found = examine(machine(**WINDOWS, environment={"ONEAPI_ROOT": r"C:\Program Files (x86)\Intel\oneAPI"}))
    assert {finding.state for finding in found} == {State.OK}


def test_a_gpu_that_is_too_old_beside_one_that_works_is_a_note_and_the_only_one() -> None:
    beside = machine(gpus=(UHD_630, *machine().gpus))
    (note,) = (finding for finding in examine(beside) if finding.state is not State.OK)
    assert (note.code, note.what) == ("gpu-too-old", "Intel GPU 0x3e92 is too old for PyTorch")
    alone = machine(gpus=(UHD_630,), render_nodes=(), loader="", inventory=NOTHING)
    assert [finding.code for finding in examine(alone) if finding.state > State.OK] == ["gpu-too-old"]


def test_parts_of_a_gpu_that_are_for_virtual_machines_are_no_gpus_of_this_one(tmp_path: Path) -> None:
    sysfs, _ = lay_out("sriov_host", tmp_path)
    found = machine_module.look(sysfs=sysfs, dri=tmp_path / "dri").gpus
    assert [(gpu.pci_address, gpu.driver, gpu.integrated) for gpu in found] == [
        ("0000:00:02.0", "i915", True),
        ("0000:00:02.3", "i915", True),  # one that is for a container
    ]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_machine_is_found_with_evidence_and_fix(case: str) -> None:
    code = case.partition(",")[0]
    changes, state, evidence, fix = BROKEN[case]
    broken = machine(**changes)
    (finding,) = (finding for finding in examine(broken) if finding.code == code)
    assert finding.state is state
    assert evidence in finding.evidence
    assert fix
    assert fix in finding.fix_for(broken.system)
    assert set(finding.fixes) == set(SYSTEMS)
    assert exit_code([finding]) == {State.NOTE: 0, State.WARNING: 1, State.ERROR: 2}[state]


def test_text_and_data_carry_the_fix_of_this_system() -> None:
    found = examine(machine(loader="", system="arch", inventory=NOTHING))
    assert "sudo pacman -S intel-compute-runtime level-zero-loader" in as_text(found, "arch")
    (entry,) = (entry for entry in as_data(found, "arch") if entry["code"] == "loader-missing")
    assert entry["fix"].startswith("sudo pacman")
    assert entry["state"] == "error"


def test_the_report_names_no_person_path_or_serial() -> None:
    broken = machine(
        kernel="6.12.48-anna-laptop",
        environment={"ONEAPI_DEVICE_SELECTOR": "opencl:*", "SYCL_CACHE_DIR": "/home/anna/cache"},
        pyzes_problem="cannot open /home/anna/lib",
    )
    results = (
        Result("softmax", "fp16", 0.001),
        Result("gelu", "fp16", None, "clBuildProgram: cannot open /home/anna/.cache/neo_compiler_cache/a.cl"),
        Result("gelu", "bf16", None, r"cannot open C:\Users\anna\AppData\Local\NEO\a.cl"),
        Result("gelu", "fp32", None, f"device {b580().uuid} is lost"),
    )
    text = attachment(broken, examine(broken), {"xpu:0": results})
    assert "anna" not in text
    assert "/" not in text.replace("Meteor/Arrow", "")
    assert b580().uuid not in text
    data = json.loads(text)
    assert data["numbers"]["xpu:0"][0]["right"] is True
    assert {"code": "selector", "state": "note"} in data["findings"]


def test_every_finding_is_explained_in_the_documentation() -> None:
    anchors = set(re.findall(r"^### `([a-z0-9-]+)`", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE))
    sources = Path(probe.__file__).parent.glob("*.py")
    codes = set()
    for source in sources:
        codes |= set(re.findall(r'Finding\(\s*"([a-z0-9-]+)"', source.read_text(encoding="utf-8")))
    assert codes - anchors == set()
    assert anchors - codes == set()


def test_the_facts_of_a_recorded_pci_bus(tmp_path: Path) -> None:
    device = tmp_path / "bus" / "pci" / "devices" / "0000:03:00.0"
    device.mkdir(parents=True)
    for name, content in {
        "vendor": "0x8086\n",
        "device": "0x56a0\n",
        "class": "0x030000\n",
        "resource": "0x00000000a0000000 0x00000000a0ffffff 0x0000000000140204\n"
        "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
        "0x0000004000000000 0x000000400fffffff 0x000000000014220c\n",
    }.items():
        (device / name).write_text(content)
    (tmp_path / "i915").mkdir()
    (device / "driver").symlink_to(tmp_path / "i915")
    found = machine_module.look(sysfs=tmp_path, dri=tmp_path / "dri")
    assert found.gpus == (Gpu(0x56A0, "i915", 256 << 20, integrated=False, pci_address="0000:03:00.0"),)
    assert found.render_nodes == ()
    assert (found.dxg, found.driven, found.adapter_problem) == (False, True, "")
    (tmp_path / "dxg").touch()
    assert machine_module.look(sysfs=tmp_path, dri=tmp_path / "dri").dxg


def adapter(device: str, **changes: Any) -> dict[str, Any]:
    """A Win32_VideoController in the properties that are asked for."""
    return {
        "PNPDeviceID": rf"PCI\VEN_8086&DEV_{device}&SUBSYS_10218086&REV_08\6&1F2E3D4C&0&00080008",
        "AdapterCompatibility": "Intel Corporation",
        "DriverVersion": "32.0.101.6078",
        "ConfigManagerErrorCode": 0,
        **changes,
    }


def test_windows_names_the_intel_gpus_that_are_present() -> None:
    basic = {"AdapterCompatibility": "(Standard display types)", "DriverVersion": "10.0.26100.1"}
    listed = [
        adapter("56A0"),
        adapter("7D55", ConfigManagerErrorCode=22),  # disabled
        adapter("E20B", **basic),
        adapter("2684", PNPDeviceID=r"PCI\VEN_10DE&DEV_2684&SUBSYS_16F310DE&REV_A1\4&2283F625&0&0019"),
        adapter("0000", PNPDeviceID=r"ROOT\DISPLAY\0000", DriverVersion=None),
    ]
    found = windows.adapters(json.dumps(listed))
    assert [(gpu.pci_device_id, gpu.driver) for gpu in found] == [(0x56A0, "32.0.101.6078"), (0x7D55, ""), (0xE20B, "")]
    assert windows.adapters(json.dumps(adapter("56A0"))) == found[:1]  # of one adapter Windows makes no list
    assert windows.adapters("") == []
    with pytest.raises(ValueError, match="None is no adapter"):
        windows.adapters("[null]")


def test_a_windows_that_does_not_answer_shows_no_gpu_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    assert windows.find_adapters() == []  # there is no PowerShell here
    assert "Windows does not list its graphics adapters" in caplog.text


def test_the_file_of_the_runtime_tells_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libze_intel_gpu.so.1.6.33578").touch()
    (tmp_path / "libze_intel_gpu.so.1").symlink_to("libze_intel_gpu.so.1.6.33578")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = machine_module.look(sysfs=tmp_path, dri=tmp_path)
    assert found.level_zero_driver == "libze_intel_gpu.so.1.6.33578"
    found_in = examine(machine(level_zero_driver=found.level_zero_driver))
    (evidence,) = (finding.evidence for finding in found_in if finding.code == "level-zero")
    assert "1.6.33578" in evidence


@pytest.mark.parametrize(
    ("release", "system"),
    [
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "debian"),
        ({"ID": "cachyos", "ID_LIKE": "arch"}, "arch"),
        ({"ID": "nixos"}, "nixos"),
        ({"ID": "nobara", "ID_LIKE": "rhel centos fedora"}, "fedora"),
        ({"ID": "void"}, "linux"),
    ],
)
def test_the_system_is_told_by_its_release_file(
    release: dict[str, str], system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    assert machine_module.system_name() == system


def test_the_address_of_the_repository_is_one() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'Repository = "{REPOSITORY}"' in pyproject
    assert f"git clone {REPOSITORY} " in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'"{REPOSITORY}/blob/main/"' in (ROOT / "web" / "findings.js").read_text(encoding="utf-8")
    text = as_text(examine(machine(loader="", inventory=NOTHING)), "debian")
    assert f"see: {REPOSITORY}/blob/main/docs/doctor.md#loader-missing" in text
