"""Configurations say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.xpu_sim import config
from tests.xpu_sim.config import PRESETS, BadConfig


def test_a_file_with_everything(tmp_path: Path) -> None:
    path = tmp_path / "sim.json"
    document = {
        "devices": [
            "arc-a770",
            {"preset": "lunar-lake", "total_bytes": 1 << 30, "missing_operators": ["exp"]},
            {"name": "Some GPU", "telemetry": {"temperature_c": None, "power_draw_w": 5}},
        ],
        "faults": [{"operator": "mm", "kind": "device_lost", "nth": 3, "times": None}],
        "control_port": 0,
    }
    path.write_text(json.dumps(document))
    read = config.read(path)
    assert read.devices[0] == PRESETS["arc-a770"]
    assert read.devices[1].integrated
    assert read.devices[1].missing_operators == ("exp",)
    assert read.devices[2].telemetry.temperature_c is None
    assert read.devices[2].telemetry.utilization_percent is not None
    assert read.faults[0].times is None
    assert read.control_port == 0


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_a_uuid_of_their_own(name: str) -> None:
    others = [device.uuid for other, device in PRESETS.items() if other != name]
    assert PRESETS[name].uuid not in others


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "The configuration must be an object"),
        ({"device": []}, "The configuration has no field 'device': choose one of devices,"),
        ({"devices": "arc-b580"}, "devices must be a list"),
        ({"devices": ["arc-b850"]}, "There is no preset 'arc-b850': choose one of arc-b580,"),
        ({"devices": [7]}, "A device must be the name of a preset or an object"),
        ({"devices": [{"memory": 4}]}, "A device has no field 'memory'"),
        ({"devices": [{"total_bytes": "12 GB"}]}, "A device's total_bytes must be int, not '12 GB'"),
        ({"devices": [{"total_bytes": True}]}, "A device's total_bytes must be int, not True"),
        ({"devices": [{"total_bytes": 0}]}, "total_bytes must be more than 0"),
        ({"devices": [{"other_process_bytes": -1}]}, "other_process_bytes must not be negative"),
        ({"devices": [{"memory_info": "odd"}]}, "memory_info must be one of works, raises, zero, frozen, not 'odd'"),
        ({"devices": [{"uuid": "12"}]}, "uuid must be 16 bytes in hex"),
        ({"devices": [{"telemetry": {"heat": 1}}]}, "Telemetry has no field 'heat'"),
        ({"devices": [{"missing_operators": [1]}]}, "missing_operators must be a list of strings"),
        ({"devices": ["arc-b580"] * 9}, "At most 8 devices"),
        ({"faults": [{"operator": "mm"}]}, "A fault needs 'kind'"),
        ({"faults": [{"operator": "mm", "kind": "boom"}]}, "There is no fault 'boom'"),
        ({"faults": [{"operator": "mm", "kind": "nan", "probability": 0}]}, "probability must be above 0"),
        ({"faults": [{"operator": "mm", "kind": "nan", "nth": 0}]}, "nth must be from 1 to 9223372036854775807, not 0"),
        ({"faults": [{"operator": "mm", "kind": "nan", "times": 0}]}, "times must be from 1"),
        ({"faults": [{"operator": "mm", "kind": "nan", "seed": -1}]}, "seed must be from 0"),
        ({"faults": [{"operator": "mm", "kind": "nan", "above_bytes": -1}]}, "above_bytes must be from 0"),
        ({"faults": [{"operator": "mm", "kind": "nan", "device": -1}]}, "device must be from 0"),
        ({"faults": [{"operator": "runtime::malloc", "kind": "nan"}]}, "runtime::malloc has none: name an operator"),
        ({"faults": {}}, "faults must be a list"),
        ({"faults": [{"operator": "mm", "kind": "error"}]}, "needs a message"),
        ({"control_port": "any"}, "control_port must be int or NoneType"),
    ],
)
def test_what_cannot_be_simulated(document: object, message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        config.parse(document)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="There is no configuration file"):
        config.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadConfig, match=r"bad\.json is not JSON"):
        config.read(tmp_path / "bad.json")
