"""The server that all host tests share has the pack in a folder that cannot be written (see tests/harness)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.hosts import ROOT
from tests.harness.read_only import BOUND, contents, read_only_pack
from tests.harness.server import Server
from tests.harness.workflows import text_to_image, with_our_nodes

from .conftest import run_ok


@pytest.mark.core
def test_a_read_only_pack_makes_a_picture_without_a_complaint(pack: Path, server: Server) -> None:
    before = contents(pack)
    result = run_ok(server, with_our_nodes(text_to_image()))
    assert server.client.image(result, "save").startswith(b"\x89PNG")
    assert contents(pack) == before
    assert "__pycache__" not in "".join(before)
    assert "Read-only file system" not in server.log_text()
    assert "Permission denied" not in server.log_text()


def test_a_server_cannot_write_into_the_pack_even_as_root(tmp_path: Path) -> None:
    with read_only_pack(tmp_path / "pack") as folder:
        script = f"open({str(folder / 'web' / 'cache.json')!r}, 'w')"
        done = subprocess.run([sys.executable, *BOUND, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert "PermissionError" in done.stderr


def test_a_pack_that_writes_is_noticed(tmp_path: Path) -> None:
    def write() -> None:
        with read_only_pack(tmp_path / "pack") as folder:
            (folder / "web" / "cache.json").write_text("{}")

    with pytest.raises((OSError, AssertionError)):
        write()
