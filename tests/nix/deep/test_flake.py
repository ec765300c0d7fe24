"""flake.nix and flake-module.nix through the real flake-parts."""

from __future__ import annotations

import ast

from ..evaluate import evaluate


def test_our_flake_exports_what_its_documentation_names() -> None:
    outputs = evaluate("import ./tests/nix/deep/flake.nix { }")
    assert outputs["packages"] == {
        "x86_64-linux": {
            "comfyui-xpu": "comfyui-xpu-0.37.0",
            "comfyui-xpu-image": "stream-comfyui-xpu",
            "comfyui-xpu-nodes": "comfyui-xpu-nodes-0.1.0",
            "default": "comfyui-xpu-0.37.0",
            "ollama-xpu": "ollama",
            "torch-xpu": "torch-2.14.0",
        }
    }
    assert outputs["apps"]["x86_64-linux"] == {
        "comfyui-xpu": "/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu",
        "doctor": "/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu-doctor",
        "bench": "/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu-bench",
    }
    assert outputs["checks"]["x86_64-linux"].keys() == {"comfyui-xpu-nodes", "comfyui-xpu-vm"}
    assert outputs["devShells"] == {"x86_64-linux": ["default", "xpu"]}
    assert outputs["flakeModules"] == ["default"]
    assert outputs["overlays"] == ["default", "ipex", "mkl"]
    assert outputs["nixosModules"] == ["default", "xpu"]
    assert outputs["homeManagerModules"] == ["default"]


USER = """{ pkgs, ... }: {
  xpuNodes = {
    acceleration = "cpu";
    customNodes.mine = pkgs.fetchurl { url = "https://a/mine"; hash = "sha256-x="; };
    extraPackages = python: [ python.gguf ];
  };
}"""


def test_the_machine_of_the_vm_test_loads_a_node_with_its_python_package() -> None:
    test = evaluate(
        "let pkgs = import ./tests/nix/nixpkgs { overlays = [ (import ./nix/overlay.nix) ]; };"
        " inherit (pkgs.callPackage ./nix/checks/vm.nix { }) test;"
        " service = test.nodes.machine.services.comfyui-xpu;"
        " names = map (package: package.name); in { inherit (test) testScript; nodes = builtins.mapAttrs"
        " (_: node: names (node.pythonDependencies pkgs.python313.pkgs)) service.customNodes; }"
    )
    assert test["nodes"] == {"vm-node": ["python-gguf"]}
    script = ast.unparse(ast.parse(test["testScript"]))
    assert "{'XPUOllamaPrompt', 'VMNode'} <= api('/object_info').keys()" in script
    assert "systemctl show comfyui-xpu-doctor" in script


def test_someone_s_flake_gets_comfyui_with_its_nodes() -> None:
    outputs = evaluate(f"import ./tests/nix/deep/flake.nix {{ user = {USER}; }}")
    assert outputs["nodes"] == ["mine"]
    assert {"torch-nixpkgs", "python-gguf", "python-ollama"} <= set(outputs["python"])
    assert outputs["packages"]["x86_64-linux"].keys() == {
        "comfyui-xpu",
        "comfyui-xpu-image",
        "comfyui-xpu-nodes",
        "ollama-xpu",
        "torch-xpu",
    }
    assert "comfyui-xpu-vm" not in outputs["checks"]["x86_64-linux"]


def test_a_system_without_intel_gpus_gets_nothing() -> None:
    outputs = evaluate(f"import ./tests/nix/deep/flake.nix {{ user = {USER}; }}")
    assert outputs["packages"]["aarch64-linux"] == {}
    assert outputs["apps"]["aarch64-linux"] == {}


def test_the_module_can_be_switched_off() -> None:
    outputs = evaluate(
        "let outputs = import ./tests/nix/deep/flake.nix { user.xpuNodes.enable = false; };"
        " in { inherit (outputs) packages apps checks; }"
    )
    assert all(output["x86_64-linux"] == {} for output in outputs.values())


def test_without_flakes_the_same_parts_are_there() -> None:
    parts = evaluate(
        "let parts = import ./. { pkgs = import ./tests/nix/nixpkgs { }; };"
        " in { torch = parts.torch-xpu.name; comfyui = parts.comfyui-xpu.name; names = builtins.attrNames parts; }"
    )
    assert (parts["torch"], parts["comfyui"]) == ("torch-2.14.0", "comfyui-xpu-0.37.0")
    assert {"overlays", "nixosModules", "homeManagerModules"} <= set(parts["names"])


def test_the_default_nixos_module_brings_the_overlay_and_the_other_does_not() -> None:
    answer = evaluate(
        "let parts = import ./. { }; made = module: import ./tests/nix/deep/nixos.nix {"
        " inherit module; settings.services.comfyui-xpu.enable = true; };"
        " in { overlays = map (module: builtins.length (made module).overlays) ["
        " parts.nixosModules.default parts.nixosModules.xpu ]; }"
    )
    assert answer["overlays"] == [1, 0]
