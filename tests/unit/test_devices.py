"""The inventory: what is read of a device, and the reason for each that cannot be used."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from xpu_utils.__main__ import main
from xpu_utils.doctor.examine import examine
from xpu_utils.machine import devices
from xpu_utils.machine.devices import cpu_name, find_devices
from xpu_utils.machine.profiles import OVERRIDES_VARIABLE, PROFILES, Architecture, architecture_of, known_profiles

from .healthy_machine import machine

ROOT = Path(__file__).parents[2]


def xpu_module(*properties: object, **functions: object) -> SimpleNamespace:
    """torch.xpu as its documentation describes it."""
    return SimpleNamespace(
        device_count=lambda: len(properties),
        is_available=lambda: bool(properties),
        get_device_properties=lambda index: properties[index],
        _is_compiled=lambda: True,
        **functions,
    )


B580 = SimpleNamespace(
    name="Intel(R) Arc(TM) B580 Graphics",
    total_memory=12 << 30,
    has_fp16=True,
    has_fp64=True,
    driver_version="1.6.33578",
    device_id=0xE20B,
    uuid="8680-0be2",
    max_compute_units=160,
)


def test_every_property_of_an_xpu_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "xpu", xpu_module(B580, is_bf16_supported=lambda: True))
    device, cpu = find_devices().devices
    assert device.id == "xpu:0"
    assert device.architecture is Architecture.BATTLEMAGE
    assert (device.total_bytes, device.driver_version, device.compute_units) == (12 << 30, "1.6.33578", 160)
    assert (device.fp16, device.bf16, device.fp64, device.integrated) == (True, True, True, False)
    assert (device.uuid, device.pci_device_id) == ("8680-0be2", 0xE20B)
    assert cpu.id == "cpu"


def test_a_build_that_reports_nothing_but_a_name_still_gives_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "xpu", xpu_module(SimpleNamespace(name="Intel(R) Arc(TM) A770 Graphics")))
    device = find_devices().devices[0]
    assert device.architecture is Architecture.ALCHEMIST
    assert device.single_allocation_limit_bytes == 4 << 30
    assert device.driver_version == ""


def test_a_pci_id_in_the_name_tells_what_the_build_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "xpu", xpu_module(SimpleNamespace(name="Intel(R) Graphics [0x64A0]")))
    device = find_devices().devices[0]
    assert (device.architecture, device.pci_device_id) == (Architecture.LUNAR_LAKE, 0x64A0)
    assert device.integrated


def test_a_card_of_its_own_comes_before_an_integrated_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    integrated = SimpleNamespace(name="Intel(R) UHD Graphics 770", is_integrated_gpu=True)
    monkeypatch.setattr(torch, "xpu", xpu_module(integrated, B580, B580))
    found = find_devices()
    assert [device.id for device in found.devices] == ["xpu:1", "xpu:2", "xpu:0", "cpu"]
    assert found.best.id == "xpu:1"


def test_a_device_that_cannot_be_asked_is_rejected_and_the_others_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(index: int) -> object:
        if index == 0:
            raise RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)\nmore")
        return B580

    module = xpu_module(B580, B580)
    module.get_device_properties = properties
    monkeypatch.setattr(torch, "xpu", module)
    found = find_devices()
    assert [device.id for device in found.devices] == ["xpu:1", "cpu"]
    (rejection,) = found.rejected
    assert rejection.what == "xpu:0"
    assert rejection.why.startswith("its driver failed: level_zero backend failed")
    assert "\n" not in rejection.why


def test_a_driver_that_cannot_count_its_devices_leaves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        raise RuntimeError("Native API failed")

    module = xpu_module()
    module.device_count = count
    monkeypatch.setattr(torch, "xpu", module)
    found = find_devices()
    assert [device.id for device in found.devices] == ["cpu"]
    assert [(rejection.what, rejection.why) for rejection in found.rejected] == [
        ("xpu", "its driver failed: Native API failed")
    ]


def test_an_accelerator_whose_module_reports_nothing_is_still_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "mps", SimpleNamespace(device_count=lambda: 1))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    device = find_devices().devices[0]
    assert (device.id, device.name, device.total_bytes) == ("mps:0", "mps:0", 0)


def test_a_pytorch_without_accelerator_still_gives_its_xpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "xpu", xpu_module(B580))
    monkeypatch.delattr(torch, "accelerator")
    assert [device.id for device in find_devices().devices] == ["xpu:0", "cpu"]


def test_comfyui_is_told_in_one_sentence_that_pytorch_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setattr(sys, "modules", {**sys.modules, "pack": importlib.util.module_from_spec(spec)})
    spec.loader.exec_module(sys.modules["pack"])
    monkeypatch.delattr(torch, "accelerator")
    with pytest.raises(
        ImportError, match=r"^PyTorch \S+ is too old, XPU Nodes needs 2.7 or newer: \S+ -m pip install .*$"
    ):
        asyncio.run(sys.modules["pack"].comfy_entrypoint())


def test_the_cpu_has_its_makers_name(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Intel(R) Core(TM) Ultra 7 258V\nflags\t\t: fpu\n")
    assert cpu_name(cpuinfo) == "Intel(R) Core(TM) Ultra 7 258V"
    cpuinfo.write_text("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n" * 2)
    assert cpu_name(cpuinfo) == "AMD EPYC (family 25, model 17)"
    assert cpu_name(tmp_path / "missing") == (platform.processor() or platform.machine())


@pytest.mark.parametrize(
    ("pci_id", "name", "architecture"),
    [
        (0x56A0, "", Architecture.ALCHEMIST),
        (0xE20B, "", Architecture.BATTLEMAGE),
        (0x7D55, "", Architecture.METEOR_LAKE),
        (0x64A0, "", Architecture.LUNAR_LAKE),
        (0xB080, "", Architecture.PANTHER_LAKE),
        (0x9A49, "", Architecture.XE_LP),
        (0x0BD5, "", Architecture.DATA_CENTER_MAX),
        (0x0B69, "", Architecture.DATA_CENTER_MAX),
        (0x4F80, "", Architecture.ALCHEMIST),
        (0x56C0, "Intel(R) Data Center GPU Flex 170", Architecture.ALCHEMIST),
        (0x3E92, "Intel(R) UHD Graphics 630", Architecture.BEFORE_XE),  # Gen9
        (0x8A52, "", Architecture.BEFORE_XE),  # Gen11
        (0x0412, "", Architecture.BEFORE_XE),  # Gen7
        (None, "Intel(R) Graphics [0xe211]", Architecture.BATTLEMAGE),
        (None, "Intel(R) UHD Graphics [0x9bc5]", Architecture.BEFORE_XE),
        (0xB640, "Intel(R) Arc(TM) Graphics", Architecture.METEOR_LAKE),
        (0x1234, "", Architecture.UNKNOWN),
        (None, "Intel(R) Data Center GPU Flex 170", Architecture.ALCHEMIST),
        (None, "Intel(R) Arc(TM) 140V GPU (16GB)", Architecture.LUNAR_LAKE),
        (None, "Intel(R) Arc(TM) Pro B50 Graphics", Architecture.BATTLEMAGE),
        (None, "Intel(R) Arc(TM) A580 Graphics", Architecture.ALCHEMIST),
        (None, "Intel(R) Data Center GPU Max 1550", Architecture.DATA_CENTER_MAX),
        (None, "Intel(R) Iris(R) Xe Graphics", Architecture.XE_LP),
        (None, "Intel(R) UHD Graphics 770", Architecture.XE_LP),
        (None, "Intel(R) UHD Graphics 630", Architecture.UNKNOWN),
        (None, "Intel(R) Arc(TM) Graphics", Architecture.METEOR_LAKE),
        (None, "Intel(R) Arc(TM) 140T GPU (32GB)", Architecture.METEOR_LAKE),
        (None, "Intel(R) Arc(TM) B580 Graphics", Architecture.BATTLEMAGE),
        (None, "llvmpipe", Architecture.UNKNOWN),
    ],
)
def test_architectures_are_told_apart(pci_id: int | None, name: str, architecture: Architecture) -> None:
    assert architecture_of(pci_id, name) is architecture


def test_every_architecture_has_a_profile() -> None:
    assert all(PROFILES[architecture].architecture is architecture for architecture in Architecture)


def test_a_user_overrides_a_value_of_a_profile_which_is_read_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "profiles.json"
    file.write_text(json.dumps({"battlemage": {"single_allocation_limit_bytes": 1 << 30, "flash_head_dims": [64]}}))
    monkeypatch.setenv(OVERRIDES_VARIABLE, str(file))
    monkeypatch.setattr(torch, "xpu", xpu_module(B580))
    device, cpu = find_devices().devices
    file.unlink()
    assert device.single_allocation_limit_bytes == 1 << 30
    assert (device.profile.single_allocation_limit_bytes, device.profile.flash_head_dims) == (1 << 30, (64,))
    assert cpu.profile == PROFILES[Architecture.UNKNOWN]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"wrong at the whole \(Invalid JSON"),
        ('{"voodoo": {}}', r"wrong at voodoo \(Input should be 'alchemist', 'battlemage'"),
        ('{"alchemist": {"colour": "blue"}}', r"wrong at alchemist.colour \(Extra inputs are not permitted"),
        ("[1]", r"wrong at the whole \(Input should be an object"),
        ('{"alchemist": 5}', r"wrong at alchemist \(Input should be an object"),
        ('{"alchemist": {"memory_fraction": "lots"}}', r"wrong at alchemist.memory_fraction \(.* valid number"),
        ('{"alchemist": {"integrated": 1}}', r"wrong at alchemist.integrated \(.* valid boolean"),
        ('{"alchemist": {"flash_head_dims": ["64"]}}', r"wrong at alchemist.flash_head_dims.0 \(.* valid integer"),
    ],
)
def test_a_wrong_override_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "profiles.json"
    file.write_text(text)
    monkeypatch.setenv(OVERRIDES_VARIABLE, str(file))
    profiles, problem = known_profiles()
    assert re.search(says, problem)
    assert profiles == PROFILES


def test_an_override_without_what_reads_it_is_not_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "profiles.json").write_text("{}")
    monkeypatch.setenv(OVERRIDES_VARIABLE, str(tmp_path / "profiles.json"))
    monkeypatch.setitem(sys.modules, "pydantic", None)  # as beside older ComfyUIs
    profiles, problem = known_profiles()
    assert (profiles, "pydantic" in problem) == (PROFILES, True)


def test_a_wrong_override_costs_no_device_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(OVERRIDES_VARIABLE, str(tmp_path / "typo.json"))
    monkeypatch.setattr(torch, "xpu", xpu_module(B580))
    found = find_devices()
    assert found.devices[0].profile == PROFILES[Architecture.BATTLEMAGE]
    (rejection,) = found.rejected
    assert (rejection.what, rejection.fix) == (OVERRIDES_VARIABLE, "mend or unset it")
    assert "typo.json cannot be read (No such file or directory), no value is overridden" in rejection.why
    assert "typo.json cannot be read" in caplog.text
    (finding,) = (entry for entry in examine(machine(inventory=found)) if entry.code == "profiles")
    assert finding.evidence == rejection.why


def test_the_command_prints_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    text = capsys.readouterr().out
    assert "cpu: " in text
    assert "not usable, xpu: PyTorch is a CPU build" in text
    assert main(["devices", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["devices"][-1]["id"] == "cpu"
    assert data["rejected"][0]["fix"]


def test_finding_devices_reads_every_accelerator_that_torch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    other = xpu_module(SimpleNamespace(name="H100", total_memory=80 << 30, multi_processor_count=132))
    monkeypatch.setattr(torch, "cuda", other)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    device = devices.find_devices().devices[0]
    assert (device.id, device.compute_units) == ("cuda:0", 132)
