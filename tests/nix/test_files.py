"""Every Nix file parses and is tidy; the pinned wheels are one version set.

No formatter for Nix is in PyPI, npm or Debian bookworm, where these tests run, so the layout rules that can be
checked without one are checked here.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.hosts import CARRIERS

from .evaluate import ROOT, evaluate, nix, python_evaluator
from .right import configured
from .wrong import WRONG

TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.nix"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split()
# Arguments that our own files give each other, and names in our overlays.
OURS = frozenset(
    {"acceleration", "customNodes", "extraPackages", "python-ipex", "pyzes", "triton-xpu", "wheel", "xpuPackages"}
)
WHEELS = json.loads((ROOT / "nix/wheels.json").read_text(encoding="utf-8"))["wheels"]


@pytest.mark.parametrize("name", TRACKED)
def test_file_parses(name: str) -> None:
    assert evaluate(f"builtins.typeOf (import ./{name})") in ("lambda", "set")


def test_the_evaluator_for_machines_without_nix_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIXPKGS_LIB", raising=False)  # which it cannot read
    files = " ".join(f"(import ./{name})" for name in TRACKED)
    wrong = nix([configured(**settings) for settings, _ in WRONG.values()])
    ours = f"(import ./nix/wheels.nix).wheels (map (import ./nix/lib.nix).problems {wrong})"
    expression = f"[ (map builtins.typeOf [ {files} ]) {ours} ]"
    assert evaluate(expression, python_evaluator()) == evaluate(expression)


def untidy_lines(text: str) -> list[str]:
    """Lines with a tab, trailing blanks, more than 120 columns or an odd indentation."""
    found = []
    in_string = False
    for number, line in enumerate(text.splitlines(), 1):
        indent = len(line) - len(line.lstrip(" "))
        if "\t" in line or line != line.rstrip() or len(line) > 120 or (indent % 2 and not in_string):
            found.append(f"{number}: {line}")
        if len(re.findall(r"(?<!')''(?!['$\\])", line)) % 2:
            in_string = not in_string
    return found


@pytest.mark.parametrize("name", TRACKED)
def test_file_is_tidy(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert untidy_lines(text) == []
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("line", ["\tx", "x ", "   x", "x" * 121])
def test_untidy_lines_are_found(line: str) -> None:
    assert untidy_lines(line) == [f"1: {line}"]


def test_every_name_of_nixpkgs_that_we_refer_to_is_listed_with_where_it_was_seen() -> None:
    packages = [name for name in TRACKED if name.startswith(("nix/packages/", "nix/checks/vm.nix"))]
    asked = evaluate(
        f"map (file: builtins.attrNames (builtins.functionArgs (import file))) [ ./{' ./'.join(packages)} ]"
    )
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in TRACKED if name.startswith("nix/")]
    code = re.sub(r"#.*", "", "\n".join(texts))
    code = re.sub(r'"[^"$]*"', "", code)
    named = set(re.findall(r"\b(?:pkgs|final|prev)\.([a-zA-Z][\w-]*)", code))
    names = named.union(*asked) - OURS - set(evaluate("builtins.attrNames (import ./nix/overlay.nix { } { })"))
    listed = json.loads((ROOT / "tests/nix/attributes.json").read_text(encoding="utf-8"))
    assert names - listed["pkgs"].keys() - listed["python"].keys() == set()


def test_every_part_is_reachable() -> None:
    """A file that nothing names would rot unseen."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in TRACKED}
    entries = {"flake.nix", "default.nix", "flake-module.nix"}
    for name in texts.keys() - entries:
        if name.startswith("nix/"):
            assert any(Path(name).name in text for other, text in texts.items() if other != name), name


def test_the_documentation_says_what_was_checked() -> None:
    text = (ROOT / "docs/nix.md").read_text(encoding="utf-8")
    assert f"{len(WRONG)} wrong configurations" in text
    newest, oldest = CARRIERS
    assert f"`make host` on {newest}, its core on {oldest}" in text


def test_the_lock_is_of_the_flake_s_inputs() -> None:
    """As Nix checks it before it uses a lock."""
    nodes = json.loads((ROOT / "flake.lock").read_text(encoding="utf-8"))["nodes"]
    inputs = evaluate("builtins.mapAttrs (_: input: input.url) (import ./flake.nix).inputs")
    assert nodes["root"]["inputs"].keys() == inputs.keys()
    for name, url in inputs.items():
        kind, _, path = url.partition(":")
        original = nodes[name]["original"]
        assert [original["type"], original["owner"], original["repo"]] == [kind, *path.split("/")[:2]]
        assert original.get("ref") == [*path.split("/"), None][2]
        assert len(base64.b64decode(nodes[name]["locked"]["narHash"].removeprefix("sha256-"), validate=True)) == 32
    assert nodes["flake-parts"]["inputs"]["nixpkgs-lib"] == ["nixpkgs"]


def test_pins_have_a_real_hash_each() -> None:
    wheels = [wheel for wheels in WHEELS.values() for wheel in wheels]
    digests = [base64.b64decode(wheel["hash"].removeprefix("sha256-"), validate=True) for wheel in wheels]
    assert {len(digest) for digest in digests} == {32}
    assert len(set(digests)) == len(wheels)


def test_what_could_not_be_hashed_here_says_so() -> None:
    elsewhere = [wheel for wheels in WHEELS.values() for wheel in wheels if "url" in wheel]
    assert elsewhere
    assert all(wheel["source"].startswith("unchecked") for wheel in elsewhere)
    assert all("source" not in wheel for wheel in WHEELS["intel"] + WHEELS["python"])


def test_intel_wheels_are_one_version_set() -> None:
    """2025.x wheels link libsycl.so.8 and 2026.0 ones libsycl.so.9: a mixture fails at import."""
    versions = {wheel["name"]: wheel["version"] for wheel in WHEELS["intel"]}
    oneapi = {
        version
        for name, version in versions.items()
        if name.startswith(("intel-cmplr", "intel-sycl", "onemkl", "dpcpp"))
    }
    assert oneapi == {versions["mkl"]} == {versions["intel-openmp"]} == {versions["intel-opencl-rt"]} == {"2026.1.0"}


def test_wheels_are_asked_for_by_their_name_on_pypi() -> None:
    wheels = "(import ./nix/wheels.nix).wheels"
    assert evaluate(f"(import ./nix/wheels.nix).pypiWheel {wheels}.intel.onemkl-sycl-blas") == {
        "pname": "onemkl_sycl_blas",
        "version": "2026.1.0",
        "format": "wheel",
        "dist": "py2.py3",
        "python": "py2.py3",
        "abi": "none",
        "platform": "manylinux_2_28_x86_64",
        "hash": next(wheel["hash"] for wheel in WHEELS["intel"] if wheel["name"] == "onemkl-sycl-blas"),
    }
    assert evaluate(f"(import ./nix/wheels.nix).pypiWheel {wheels}.ipex.intel-extension-for-pytorch").items() >= {
        ("python", "cp312"),
        ("abi", "cp312"),
    }
