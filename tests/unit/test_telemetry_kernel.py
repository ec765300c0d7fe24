"""Telemetry from what the Linux kernel shows of three kinds of machine (recorded from its documentation)."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from xpu_utils.machine.gpus import find_gpus
from xpu_utils.telemetry import fdinfo
from xpu_utils.telemetry.kernel import KernelSource
from xpu_utils.telemetry.pci import gpu_of, pci_address_of
from xpu_utils.telemetry.readings import Unavailable

from .recorded import GIB, b580, lay_out, lunar_lake, xpu

MIB = 1 << 20


def test_the_pci_address_is_read_out_of_intels_uuid() -> None:
    assert pci_address_of(xpu()) == "0000:03:00.0"
    assert pci_address_of(b580()) == "0000:04:00.0"
    assert pci_address_of(xpu(pci_address="0000:0a:00.0")) == "0000:0a:00.0"
    assert pci_address_of(xpu(uuid="00000000-0000-0000-0000-000000000000")) == ""
    assert pci_address_of(xpu(pci_device_id=0xE20B)) == ""


def test_a_card_is_found_by_address_and_never_by_position(tmp_path: Path) -> None:
    sysfs, _ = lay_out("xe_dgpu", tmp_path)
    gpus = find_gpus(sysfs)
    assert [gpu.driver for gpu in gpus] == ["i915", "xe"]
    assert gpu_of(b580(index=0), gpus)[1].name == "card1"
    assert gpu_of(b580(uuid=""), gpus)[1].name == "card1"
    with pytest.raises(Unavailable, match="0 of the kernel's GPUs match xpu:0"):
        gpu_of(xpu(), gpus)


def test_two_cards_of_one_kind_without_an_address_are_not_guessed(tmp_path: Path) -> None:
    sysfs, _ = lay_out("xe_dgpu", tmp_path)
    with pytest.raises(Unavailable, match="2 of the kernel's GPUs"):
        gpu_of(b580(uuid=""), [*find_gpus(sysfs), find_gpus(sysfs)[1]])


def test_i915_discrete_card(tmp_path: Path) -> None:
    sysfs, proc = lay_out("i915_dgpu", tmp_path)
    source = KernelSource(xpu(), sysfs=sysfs, files=fdinfo.OpenFiles(proc))
    memory = source.memory()
    assert (memory.used_bytes, memory.total_bytes) == (8 * GIB, 16 * GIB)
    assert source.temperature() == 61.0
    assert source.frequency() == 2050.0
    assert source.power() is None  # a rate needs a second reading
    energy = sysfs / "bus/pci/devices/0000:03:00.0/drm/card1/device/hwmon/hwmon4/energy1_input"
    energy.write_text("95000000")
    watts = source.power()
    assert watts is not None
    assert watts > 0


def test_i915_engines_are_busy_nanoseconds_over_wall_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs, proc = lay_out("i915_dgpu", tmp_path)
    source = KernelSource(xpu(), sysfs=sysfs, files=fdinfo.OpenFiles(proc))
    clock = iter((0, 1_000_000_000))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    assert source.engines() is None
    for file in (proc / "4242/fdinfo/7", proc / "4242/fdinfo/8"):
        file.write_text(file.read_text().replace("2000000000 ns", "2750000000 ns"))
    assert source.engines() == pytest.approx(
        {"render": 0.0, "copy": 0.0, "video": 0.0, "video enhance": 0.0, "compute": 75.0}
    )


def test_xe_discrete_card(tmp_path: Path) -> None:
    sysfs, proc = lay_out("xe_dgpu", tmp_path)
    source = KernelSource(b580(total_bytes=11 * GIB), sysfs=sysfs, files=fdinfo.OpenFiles(proc))
    memory = source.memory()
    assert memory.total_bytes == 12 * GIB  # the kernel's own figure, not torch's
    assert memory.used_bytes == 5 * GIB  # vram of two clients; memory of the other card and gtt do not count
    assert source.temperature() == 58.0
    assert source.frequency() == 2400.0


def test_xe_engines_are_busy_cycles_over_all_cycles_and_capacity(tmp_path: Path) -> None:
    sysfs, proc = lay_out("xe_dgpu", tmp_path)
    source = KernelSource(b580(), sysfs=sysfs, files=fdinfo.OpenFiles(proc))
    assert source.engines() is None
    for process, changes in {
        "4242/fdinfo/9": (("ccs:\t500000", "ccs:\t1700000"), ("cycles-ccs:\t1000000", "cycles-ccs:\t2000000")),
        "6001/fdinfo/4": (("drm-cycles-rcs:\t100000", "drm-cycles-rcs:\t350000"), ("rcs:\t1000000", "rcs:\t2000000")),
    }.items():
        text = (proc / process).read_text()
        for old, new in changes:
            text = text.replace(old, new)
        (proc / process).write_text(text)
    percent = source.engines()
    assert percent is not None
    assert percent["compute"] == pytest.approx(60.0)
    assert percent["render"] == pytest.approx(25.0)


def test_xe_integrated_gpu_uses_main_memory_and_lacks_sensors(tmp_path: Path) -> None:
    sysfs, proc = lay_out("xe_igpu", tmp_path)
    source = KernelSource(lunar_lake(), sysfs=sysfs, files=fdinfo.OpenFiles(proc))
    memory = source.memory()
    assert memory.used_bytes == (512 + 2048) * MIB
    assert memory.total_bytes == psutil.virtual_memory().total
    assert source.frequency() == 1950.0
    with pytest.raises(Unavailable, match="xe shows no temperature"):
        source.temperature()
    with pytest.raises(Unavailable, match="xe shows no energy counter"):
        source.power()


def test_a_file_opened_twice_is_counted_once(tmp_path: Path) -> None:
    _, proc = lay_out("i915_dgpu", tmp_path)
    assert sorted(client.client_id for client in fdinfo.OpenFiles(proc).clients("0000:03:00.0")) == ["11", "12"]


def test_files_are_looked_for_rarely_and_read_each_time(tmp_path: Path) -> None:
    _, proc = lay_out("i915_dgpu", tmp_path)
    now = 0.0
    files = fdinfo.OpenFiles(proc, clock=lambda: now)

    def held() -> dict[str, int]:
        return {client.client_id: client.device_bytes for client in files.clients("0000:03:00.0")}

    assert held() == {"11": 6 * GIB, "12": 2 * GIB}
    (proc / "5151/fdinfo/3").write_text((proc / "5151/fdinfo/3").read_text().replace("2097152", "1048576"))
    (proc / "6161/fd").mkdir(parents=True)
    (proc / "6161/fdinfo").mkdir()
    (proc / "6161/fd/5").symlink_to("/dev/dri/renderD128")
    (proc / "6161/fdinfo/5").write_text("drm-client-id:\t13\ndrm-pdev:\t0000:03:00.0\ndrm-resident-local0:\t1 GiB\n")
    assert held() == {"11": 6 * GIB, "12": GIB}
    now += fdinfo.RESCAN_SECONDS
    assert held() == {"11": 6 * GIB, "12": GIB, "13": GIB}
    (proc / "5151/fdinfo/3").unlink()
    assert held() == {"11": 6 * GIB, "13": GIB}


def test_each_memory_region_is_the_cards_or_the_systems() -> None:
    sizes = {"local0": 1, "vram1": 2, "stolen-local0": 4, "system0": 8, "gtt": 16, "stolen": 32, "stolen-system0": 64}
    lines = [f"drm-resident-{region}:\t{size}" for region, size in sizes.items()]
    client = fdinfo.parse("\n".join(["drm-pdev:\t0000:03:00.0", "drm-client-id:\t1", *lines]))
    assert client is not None
    assert (client.device_bytes, client.system_bytes) == (1 + 2 + 4, 8 + 16 + 32 + 64)


@pytest.mark.parametrize("line", ["drm-resident-local0:\t12 kB", "drm-total-local0:\tmany", "drm-engine-render:\t"])
def test_a_figure_in_an_unknown_form_is_a_reason_and_not_a_crash(line: str) -> None:
    with pytest.raises(Unavailable, match="fdinfo gives"):
        fdinfo.parse(f"drm-pdev:\t0000:03:00.0\ndrm-client-id:\t1\n{line}")


def test_no_sysfs_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        KernelSource(xpu(), sysfs=tmp_path, files=fdinfo.OpenFiles(tmp_path))
