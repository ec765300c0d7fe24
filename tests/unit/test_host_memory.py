"""What a container leaves of the host's memory, read from folders like the kernel's."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from xpu_utils.machine.host_memory import HostMemory, read_host_memory

MIB = 1 << 20
UNLIMITED = 9223372036854771712
"""What version 1 answers without a limit."""


def read(groups: Path) -> HostMemory:
    return read_host_memory(groups / "own", groups)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")


def test_the_tightest_group_around_the_process_counts(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/pod/container\n")
    write(tmp_path / "pod", memory_max=96 * MIB, memory_current=60 * MIB, memory_stat=f"inactive_file {4 * MIB}")
    write(tmp_path / "pod" / "container", memory_max="max", memory_current=50 * MIB, memory_stat="inactive_file 0")
    assert read(tmp_path) == HostMemory(96 * MIB, 40 * MIB)


def test_the_first_version_s_files(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("4:memory:/docker/1\n1:cpu:/docker/1\n0::/\n")
    folder = tmp_path / "memory" / "docker" / "1"
    write(
        folder,
        memory_limit_in_bytes=64 * MIB,
        memory_usage_in_bytes=80 * MIB,
        memory_stat=f"inactive_file 1\ntotal_inactive_file {10 * MIB}",
    )
    assert read(tmp_path) == HostMemory(64 * MIB, 0)


def test_a_container_that_sees_its_group_as_the_root(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/not/mounted/here\n")
    write(tmp_path, memory_max=32 * MIB, memory_current=8 * MIB, memory_stat="inactive_file 0")
    assert read(tmp_path) == HostMemory(32 * MIB, 24 * MIB)


@pytest.mark.parametrize("own", [None, "4:memory:/free\n", "0::/damaged\n"])
def test_without_a_limit_it_is_the_machine_s(tmp_path: Path, own: str | None) -> None:
    if own is not None:
        (tmp_path / "own").write_text(own)
    write(
        tmp_path / "memory" / "free",
        memory_limit_in_bytes=UNLIMITED,
        memory_usage_in_bytes=1,
        memory_stat="total_rss 1",
    )
    write(tmp_path / "damaged", memory_max="4 GiB", memory_current=1, memory_stat="")
    assert read(tmp_path).total_bytes == psutil.virtual_memory().total
    assert 0 < read(tmp_path).available_bytes < psutil.virtual_memory().total
