"""Download every PyPI wheel of ``wheels.json``, hash the real file and write the hash back.

    python nix/update-wheels.py            after changing a version in wheels.json
    python nix/update-wheels.py --check    only say which hashes differ; exit 1 if any does

About 1 GB passes through a temporary folder, one wheel at a time. The wheels of download.pytorch.org
are left alone: set those hashes from a build (Nix prints the right one when it differs).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

WHEELS = Path(__file__).with_name("wheels.json")


def sri_hash(wheel: Path) -> str:
    """Hash of a file in the form Nix reads (https://www.w3.org/TR/SRI/)."""
    digest = hashlib.sha256(wheel.read_bytes()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def real_hash(name: str, version: str, platform: str) -> str:
    """Download one wheel from PyPI and hash it.

    Raises:
        subprocess.CalledProcessError: PyPI has no such wheel.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", "3.12", "--platform", platform, "--dest", folder, f"{name}=={version}"]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).iterdir()
        return sri_hash(wheel)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    pins = json.loads(WHEELS.read_text(encoding="utf-8"))
    different = 0
    for wheel in pins["intel"] + pins["python"]:
        real = real_hash(wheel["name"], wheel["version"], wheel["platform"])
        if real != wheel["hash"]:
            different += 1
            sys.stdout.write(f"{wheel['name']} {wheel['version']}: {wheel['hash']} is {real}\n")
            wheel["hash"] = real
    if not check:
        WHEELS.write_text(json.dumps(pins, indent=2) + "\n", encoding="utf-8")
    return 1 if check and different else 0


if __name__ == "__main__":
    sys.exit(main())
