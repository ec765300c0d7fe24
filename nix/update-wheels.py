"""Renew ``wheels.json``: versions and hashes of PyTorch's wheels and of all that they need, as pip resolves them.

    python nix/update-wheels.py 2.15.0     the set of this torch; exit 1 if it cannot be had
    python nix/update-wheels.py            the set of the torch that is pinned
    python nix/update-wheels.py --check    only say what differs; exit 1 if anything does

Nothing is downloaded but lists and metadata: the hashes are those that the registries give and that pip itself checks
downloads by. What torch needs and nixpkgs has not goes into ``intel``. Where PyTorch's registry cannot be reached its
wheels stay as they are, marked as unchecked, and those of PyPI are renewed alone. The wheels of ``ipex`` are Intel's
last and are left alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WHEELS = Path(__file__).with_name("wheels.json")
REGISTRY = "https://download.pytorch.org/whl/xpu"
PYTORCH = ("torch", "torchvision", "torchaudio", "triton-xpu")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "linux_x86_64")
NIXPKGS = frozenset(
    {*("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "numpy", "pillow", "setuptools", "sympy")}
    | {"typing-extensions"}
)
"""What torch and its companions need of others, which nixpkgs has."""

UNCHECKED = "unchecked; as it was before"

Wheel = dict[str, str]


class NotResolvedError(Exception):
    """pip could not resolve what was asked for; its last lines."""


def resolve(interpreter: str, *requirements: str, registry: str | None = None, alone: bool = False) -> dict[str, Wheel]:
    """Name, version, address and hash of the wheels that pip would install, by name.

    Args:
        interpreter: such as "cp313".
        registry: instead of PyPI.
        alone: without what the requirements need.

    Raises:
        NotResolvedError: the registry has them not, or cannot be reached.
    """
    python = f"{interpreter[2]}.{interpreter[3:]}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "--target", folder, "--only-binary=:all:", "--python-version", python]
        command += [part for platform in PLATFORMS for part in ("--platform", platform)]
        command += ["--index-url", registry] if registry else []
        command += ["--no-deps"] if alone else []
        done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotResolvedError(done.stderr.strip()[-500:])
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {wheel["name"]: wheel for wheel in map(_wheel, installed)}


def _wheel(entry: dict[str, Any]) -> Wheel:
    download = entry["download_info"]
    digest = bytes.fromhex(download["archive_info"]["hashes"]["sha256"])
    return {
        "name": re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower(),
        "version": entry["metadata"]["version"].partition("+")[0],
        "url": download["url"],
        "hash": "sha256-" + base64.b64encode(digest).decode(),
    }


def on_pypi(wheel: Wheel) -> Wheel:
    """The pin of a wheel that nixpkgs' fetchPypi finds by the parts of its name."""
    python, _, platform = wheel["url"].rsplit("/", 1)[-1].removesuffix(".whl").split("-")[-3:]
    named = {"name": wheel["name"], "version": wheel["version"]}
    return {**named, "python": python, "platform": platform, "hash": wheel["hash"]}


def renewed(pins: dict[str, Any], torch: str, registry: str) -> dict[str, Any]:
    """The pins as the registries have them now."""
    interpreter, wheels = pins["interpreter"], dict(pins["wheels"])
    python = {wheel["name"] for wheel in wheels["python"]}
    try:
        found = resolve(interpreter, f"torch=={torch}", "torchvision", "torchaudio", registry=registry)
        wheels["pytorch"] = [found[name] for name in PYTORCH]
        wanted = {name: found[name]["version"] for name in sorted(found.keys() - {*PYTORCH, *NIXPKGS})}
    except NotResolvedError as error:
        sys.stdout.write(f"{registry} gave no torch {torch}; PyTorch's wheels stay as they are: {error}\n")
        wheels["pytorch"] = [{**wheel, "source": wheel.get("source", UNCHECKED)} for wheel in wheels["pytorch"]]
        wanted = {wheel["name"]: wheel["version"] for group in ("intel", "python") for wheel in wheels[group]}
    found = resolve(interpreter, *(f"{name}=={version}" for name, version in wanted.items()), alone=True)
    wheels["intel"] = [on_pypi(found[name]) for name in wanted if name not in python]
    wheels["python"] = [on_pypi(found[name]) for name in wanted if name in python]
    return {**pins, "wheels": wheels}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch", nargs="?", help="version of PyTorch")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--registry", default=REGISTRY, help="where PyTorch's wheels are")
    given = parser.parse_args(arguments)
    text = WHEELS.read_text(encoding="utf-8")
    torch = given.torch or next(w["version"] for w in json.loads(text)["wheels"]["pytorch"] if w["name"] == "torch")
    after = renewed(json.loads(text), torch, given.registry)
    before = json.loads(text)["wheels"]
    differs = [wheel for group, pins in after["wheels"].items() for wheel in pins if wheel not in before[group]]
    for wheel in differs:
        sys.stdout.write(f"{wheel['name']}: now {wheel['version']} {wheel['hash']}\n")
    if not given.check:
        WHEELS.write_text(json.dumps(after, indent=2) + "\n", encoding="utf-8")
    kept = any("source" in wheel for wheel in after["wheels"]["pytorch"])
    return 1 if (given.check and differs) or (given.torch and kept) else 0


if __name__ == "__main__":
    sys.exit(main())
