"""Runs ComfyUI's own tests with the pack installed and compares the outcome with what they give without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .hosts import ROOT, SITE, host_environment, host_path
from .server import PACK_NAME

# What ComfyUI 0.3.75 gives without the pack; the two failures ask a remote API that is not reachable in CI.
EXPECTED = {
    "tests-unit": {"passed": 270, "skipped": 1, "failed": 2},
    "tests/execution": {"passed": 232},
}
REMOTE = ("test_init_frontend_invalid_version", "test_init_frontend_invalid_provider")


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        host = Path(scratch) / "ComfyUI"
        shutil.copytree(host_path("0.3.75"), host)
        (host / "custom_nodes" / PACK_NAME).symlink_to(ROOT, target_is_directory=True)
        return max(_run(host, folder) for folder in EXPECTED)


def _run(host: Path, folder: str) -> int:
    options = ["--skip-timing-checks"] if folder == "tests/execution" else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=fd", folder, *options]
    # Its tests start servers with whatever `python` is found first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**host_environment(), "PYTHONPATH": str(SITE), "PATH": path}
    answer = subprocess.run(command, cwd=host, env=environment, capture_output=True, text=True, check=False)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", answer.stdout)}
    failed = re.findall(r"^FAILED \S+::(\S+)", answer.stdout, re.MULTILINE)
    unexpected = [name for name in failed if not name.startswith(REMOTE)]
    same = counts == EXPECTED[folder] and not unexpected
    print(f"ComfyUI's {folder} with the pack: {counts}, {'as without it' if same else f'expected {EXPECTED[folder]}'}")
    if not same:
        print(answer.stdout[-3000:])
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
