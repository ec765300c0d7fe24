"""The overlay's derivations down to their inputs, on a stand-in for nixpkgs that cannot build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.healthy_machine import machine
from xpu_utils.doctor.python import sysman

from ..evaluate import ROOT, NixError, evaluate

WHEELS = json.loads((ROOT / "nix/wheels.json").read_text(encoding="utf-8"))["wheels"]


def packages(expression: str, *, overlay: str = "overlay", arguments: str = "") -> Any:
    """Value of an expression over ``pkgs`` with our overlay."""
    return evaluate(
        f"let pkgs = import ./tests/nix/nixpkgs {{ overlays = [ (import ./nix/{overlay}.nix) ]; {arguments} }};"
        f" in {expression}"
    )


def test_the_runtime_is_every_intel_wheel_in_one_derivation() -> None:
    hashes = packages("map (source: source.hash) pkgs.intel-xpu-runtime.srcs")
    assert sorted(hashes) == sorted(wheel["hash"] for wheel in WHEELS["intel"])
    assert packages("pkgs.intel-xpu-runtime.version") == "2026.1.0"
    assert packages("pkgs.intel-xpu-runtime.meta.license.shortName") == "issl"


def test_torch_is_the_xpu_wheel_linked_to_the_runtime() -> None:
    torch = packages(
        "{ inherit (pkgs.torch-xpu.src.arguments) url hash; inherit (pkgs.torch-xpu) cudaSupport xpuSupport;"
        " inputs = map (input: input.name) pkgs.torch-xpu.buildInputs;"
        " dependencies = map (input: input.name) pkgs.torch-xpu.dependencies; }"
    )
    pin = next(wheel for wheel in WHEELS["pytorch"] if wheel["name"] == "torch")
    assert (torch["url"], torch["hash"]) == (pin["url"], pin["hash"])
    assert (torch["cudaSupport"], torch["xpuSupport"]) == (False, True)
    assert "intel-xpu-runtime-2026.1.0" in torch["inputs"]
    assert {"triton-xpu-3.8.0", "pyzes-0.1.2"} <= set(torch["dependencies"])


def test_wheels_of_pytorch_keep_the_name_that_pip_reads() -> None:
    """From the address alone Nix would make torch-2.14.0-2Bxpu, which is another version."""
    names = packages(
        "map (package: package.src.name) (with pkgs.python-xpu.pkgs; [ torch torchvision torchaudio triton-xpu ])"
    )
    assert [name.split("-cp313-")[0] for name in names] == [
        "torch-2.14.0+xpu",
        "torchvision-0.29.0+xpu",
        "torchaudio-2.11.0+cpu",
        "triton_xpu-3.8.0",
    ]


def pip_accepts(site_packages: Path, requirement: str) -> bool:
    """Whether pip finds a requirement and all it needs installed, asked as nixpkgs' comfyui asks when it is built."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", requirement]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PYTHONPATH": str(site_packages), "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def test_comfyui_finds_all_that_torch_says_it_needs(tmp_path: Path) -> None:
    """nixpkgs' comfyui stops its build where pip misses a package; here Intel's libraries are none."""
    site_packages = tmp_path / "lib/python3.13/site-packages"
    metadata = site_packages / "torch-2.14.0+xpu.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    needs = ["filelock", *(f"{wheel['name']}=={wheel['version']}" for wheel in WHEELS["intel"])]
    lines = ["Metadata-Version: 2.1", "Name: torch", "Version: 2.14.0+xpu"]
    lines += [f'Requires-Dist: {need}; platform_system == "Linux"' for need in needs]
    metadata.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert not pip_accepts(site_packages, "torch==2.14.0")

    script = packages("pkgs.torch-xpu.postInstall")
    subprocess.run(["sh", "-eu", "-c", script], check=True, env=os.environ | {"out": str(tmp_path)})
    assert "Requires-Dist: filelock" in metadata.read_text(encoding="utf-8")
    assert pip_accepts(site_packages, "torch==2.14.0")


@pytest.mark.parametrize("generation", ["extra", "plain"])
def test_comfyui_gets_torch_for_xpu_whatever_it_overrides_itself(generation: str) -> None:
    """nixpkgs' comfyui pins CUDA settings into its torch, and older ones drop the caller's package overrides."""
    names = packages(
        "map (package: package.name) pkgs.comfyui-xpu.environment.extraLibs",
        arguments=f'generation = "{generation}";',
    )
    assert {"torch-2.14.0", "torchvision-0.29.0", "torchaudio-2.11.0"} <= set(names)
    assert not any("nixpkgs" in name for name in names)


def test_what_only_tests_with_torch_is_taken_from_nixpkgs_cache_and_what_is_built_again_is_not_tested_again() -> None:
    made = packages(
        "{ inherit (pkgs.python-xpu.pkgs.safetensors) name; inherit (pkgs.python-xpu.pkgs.torchsde) doCheck; }"
    )
    assert made == {"name": "safetensors-torch-nixpkgs", "doCheck": False}


def test_the_companions_are_linked_to_the_same_torch() -> None:
    dependencies = packages(
        "map (name: map (package: package.name) pkgs.python-xpu.pkgs.${name}.dependencies)"
        ' [ "torchvision" "torchaudio" ]'
    )
    assert all("torch-2.14.0" in names for names in dependencies)
    assert packages("pkgs.python-xpu.pkgs.torchvision.appendRunpaths") == [
        "/nix/store/torch-2.14.0/lib/python3.13/site-packages/torch/lib"
    ]


def test_comfyui_starts_with_this_pack_further_nodes_and_the_system_s_driver() -> None:
    made = packages(
        "let comfyui = pkgs.comfyui-xpu.override { customNodes.mine = pkgs.ollama; }; in"
        " { inherit (comfyui) script; nodes = builtins.attrNames comfyui.customNodes; }"
    )
    assert made["nodes"] == ["mine"]
    start = made["script"].split("comfyui-xpu-doctor")[0]
    assert "/nix/store/comfyui-0.37.0/share/comfyui/main.py" in start
    assert "--extra-model-paths-config=/nix/store/xpu-nodes.json" in start
    assert "--prefix LD_LIBRARY_PATH : /run/opengl-driver/lib" in start
    assert "--set PYTHONDONTWRITEBYTECODE 1" in start
    assert "--unset PYTHONPATH --unset NIX_PYTHONPATH" in start, "another Python's packages would come first"
    assert "-m xpu_utils doctor" in made["script"]
    assert "-m xpu_utils bench" in made["script"]


def test_a_node_brings_its_python_packages() -> None:
    names = packages(
        "map (package: package.name) (pkgs.comfyui-xpu.override {"
        " customNodes.mine = pkgs.ollama // { pythonDependencies = python: [ python.gguf ]; }; }).environment.extraLibs"
    )
    assert {"python-gguf", "python-ollama"} <= set(names)


def test_nixpkgs_service_can_override_and_start_the_package() -> None:
    """As services.comfyui does it: further Python packages by an override, then the main program."""
    made = packages(
        "let final = pkgs.comfyui-xpu.override (old: { extraPackages = python:"
        " (old.extraPackages or (_: [ ])) python ++ [ python.gguf ]; }); in"
        " { program = pkgs.lib.getExe final; libraries = map (library: library.name) final.pythonEnv.extraLibs; }"
    )
    assert made["program"] == "/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu"
    assert {"python-gguf", "torch-2.14.0", "python-ollama"} <= set(made["libraries"])


def test_the_pack_in_the_store_holds_what_comfyui_loads_and_no_tests() -> None:
    made = packages("{ inherit (pkgs.comfyui-xpu-nodes) name installPhase; }")
    assert made["name"] == "comfyui-xpu-nodes-0.1.0"
    source = (ROOT / "nix/packages/comfyui-xpu-nodes.nix").read_text(encoding="utf-8")
    listed = {line.strip().strip('"') for line in source.splitlines() if line.strip().startswith('"')}
    loaded = {"__init__.py", "prestartup_script.py", "nodes", "xpu_utils", "web"}
    assert loaded <= listed
    assert not listed & {"tests", "nix", "docs"}


def test_nixos_modules_that_choose_ollama_s_back_end_by_an_override_can_do_so() -> None:
    """As services.ollama does it where it has the option acceleration."""
    assert packages('(pkgs.ollama-xpu.override { acceleration = "vulkan"; }).acceleration') == "vulkan"


def test_ollama_is_the_mainline_one_on_vulkan() -> None:
    assert packages("{ inherit (pkgs.ollama-xpu) name acceleration; }") == {"name": "ollama", "acceleration": "vulkan"}


def test_the_image_starts_comfyui_for_everybody_outside_and_keeps_everything_in_its_volume() -> None:
    image = packages("pkgs.comfyui-xpu-image.arguments")
    config = image["config"]
    assert (image["name"], image["tag"]) == ("comfyui-xpu", "0.37.0")
    assert config["Entrypoint"][:2] == ["/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu", "--base-directory=/data"]
    assert {"--listen=0.0.0.0", "--port=8188"} <= set(config["Entrypoint"])
    assert (config["ExposedPorts"], config["Volumes"]) == ({"8188/tcp": {}}, {"/data": {}})
    assert {"HOME=/data", "ONEAPI_DEVICE_SELECTOR=level_zero:gpu"} <= set(config["Env"])
    assert not config["User"].startswith(("0", "root"))


def test_the_image_of_the_cpu_s_variant_runs_on_the_cpu() -> None:
    cpu = 'pkgs.comfyui-xpu-image.override { comfyui-xpu = pkgs.comfyui-xpu.override { acceleration = "cpu"; }; }'
    assert "--cpu" in packages(f"({cpu}).arguments.config.Entrypoint")


def test_pyzes_looks_for_the_loader_where_nix_has_it() -> None:
    script = packages("pkgs.python-xpu.pkgs.pyzes.postInstall")
    assert '"/nix/store/level-zero/lib/lib" + libName + ".so.1"' in script
    (broken,) = sysman(machine(system="nixos", pyzes_problem="pyzes does not find the Level Zero loader"))
    assert broken.fix_for("nixos") == "Use this pack's flake: its pyzes finds the loader in the store."


def test_ipex_is_a_python_of_its_own_with_the_torch_it_needs() -> None:
    made = packages(
        "{ ipex = pkgs.python-ipex.pkgs.intel-extension-for-pytorch.name;"
        " torch = pkgs.python-ipex.pkgs.torch.version; other = pkgs.python312.pkgs.torch.name; }",
        overlay="overlay-ipex",
    )
    assert made == {"ipex": "intel-extension-for-pytorch-2.8.0", "torch": "2.8.0", "other": "torch-nixpkgs"}


def test_ipex_is_off_unless_its_overlay_is_used() -> None:
    assert packages("pkgs ? python-ipex") is False


def test_mkl_replaces_blas_and_lapack() -> None:
    made = packages("[ pkgs.blas.blasProvider.name pkgs.lapack.lapackProvider.name ]", overlay="overlay-mkl")
    assert made == ["mkl", "mkl"]


def test_the_old_package_names_lead_to_the_new_ones() -> None:
    assert packages("[ pkgs.comfyui-ipex.name pkgs.ollama-ipex.name ]") == ["comfyui-xpu-0.37.0", "ollama"]


def test_a_nixpkgs_without_comfyui_is_named() -> None:
    with pytest.raises(NixError, match="this nixpkgs has no comfyui package"):
        packages("(pkgs.comfyui-xpu.override { comfyui = null; }).name")


@pytest.mark.parametrize("other", ["pkgs.ollama", "pkgs.zlib"])
def test_a_comfyui_that_takes_no_python_is_named(other: str) -> None:
    with pytest.raises(NixError, match="cannot be given a Python"):
        packages(f"(pkgs.comfyui-xpu.override {{ comfyui = {other}; }}).name")


@pytest.mark.parametrize("first", [True, False])
def test_a_comfyui_of_another_overlay_does_not_replace_nixpkgs_own(first: bool) -> None:
    """utensils' comfyui-nix puts a plain derivation under that name."""
    overlays = ["(import ./nix/overlay.nix)", "(final: prev: { comfyui = prev.zlib; })"]
    answer = evaluate(
        "let pkgs = import ./tests/nix/nixpkgs { overlays = ["
        f" {' '.join(overlays if first else overlays[::-1])} ]; }};"
        " in { theirs = pkgs.comfyui.name; ours = pkgs.comfyui-xpu.server.name; }"
    )
    assert answer == {"theirs": "zlib", "ours": "comfyui-0.37.0"}
