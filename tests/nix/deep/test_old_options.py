"""The options of the old modules: they keep working and warn, or say what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from ..evaluate import NixError
from .test_nixos import system


@pytest.mark.parametrize(
    ("old", "option", "expected", "warning"),
    [
        ({"host": "0.0.0.0"}, "host", ["0.0.0.0"], "renamed to `services.comfyui-xpu.host'"),
        ({"port": 9001}, "port", 9001, "renamed to `services.comfyui-xpu.port'"),
        ({"user": "ann"}, "user", "ann", "renamed to `services.comfyui-xpu.user'"),
        ({"group": "users"}, "group", "users", "renamed to `services.comfyui-xpu.group'"),
        ({"acceleration": "auto"}, "acceleration", "xpu", "changed to `services.comfyui-xpu.acceleration'"),
        ({"acceleration": "cpu"}, "acceleration", "cpu", "changed to `services.comfyui-xpu.acceleration'"),
        ({"models": {"path": "/srv/m"}}, "folders", ["/srv/m"], "changed to `services.comfyui-xpu.models.folders'"),
        (
            {"nodes": {"custom": [{"type": "derivation", "name": "gguf-1.0", "outPath": "/nix/store/gguf"}]}},
            "nodes",
            ["gguf"],
            "changed to `services.comfyui-xpu.customNodes'",
        ),
    ],
)
def test_an_old_option_keeps_working_and_warns(old: dict[str, Any], option: str, expected: Any, warning: str) -> None:
    answer = system({"comfyui-ipex": {"enable": True} | old})
    assert answer["options"][option] == expected
    assert answer["unit"] is not None
    assert any(warning in text for text in answer["warnings"])
    assert any("`services.comfyui-ipex.enable'" in text for text in answer["warnings"])


def test_old_nodes_of_one_name_are_not_lost() -> None:
    """fetchFromGitHub calls everything "source"."""
    node = {"type": "derivation", "name": "source", "outPath": "/nix/store/source"}
    with pytest.raises(NixError, match=r"nodes\.custom: 2 packages are called source; name each folder with"):
        system({"comfyui-ipex": {"enable": True, "nodes": {"custom": [node, node]}}})


@pytest.mark.parametrize(
    ("old", "instead"),
    [
        ({"nodes": {"enable": ["upscaling"]}}, "services.comfyui-xpu.customNodes.<name>"),
        ({"models": {"autoDownload": True}}, "services.comfyui-xpu.models.files"),
        ({"models": {"cache": {"enable": True}}}, "nothing, it had no effect"),
        ({"models": {"cache": {"size": "10GB"}}}, "nothing, it had no effect"),
        ({"optimization": {"level": "O1"}}, "nothing, PyTorch's XPU build"),
        ({"optimization": {"precision": "fp16"}}, "services.comfyui-xpu.extraArgs"),
        ({"optimization": {"jitCompile": True}}, "nothing, it had no effect"),
        ({"server": {"cors": True}}, "services.comfyui-xpu.extraArgs"),
        ({"server": {"maxUploadSize": "100M"}}, "services.comfyui-xpu.extraArgs"),
    ],
)
def test_an_old_option_without_successor_says_what_to_write(old: dict[str, Any], instead: str) -> None:
    (failure,) = system({"comfyui-ipex": {"enable": True} | old})["failures"]
    assert "services.comfyui-ipex." in failure
    assert instead in failure


@pytest.mark.parametrize(
    ("namespace", "name", "value", "instead"),
    [
        ("ipex", "enable", True, "services.comfyui-xpu.enable"),
        ("ipex", "autoDetectHardware", False, "nothing, PyTorch finds the GPU"),
        ("ipex", "devices", ["cpu"], "services.comfyui-xpu.acceleration"),
        ("ipex", "optimization", "power", "nothing, it had no effect"),
        ("comfyui-user", "enable", True, "Home Manager"),
        ("comfyui-user", "user", "ann", "Home Manager"),
        ("comfyui-user", "port", 9000, "services.comfyui-xpu.port"),
        ("comfyui-user", "dataDir", "/home/ann/comfyui", "services.comfyui-xpu.dataDir"),
    ],
)
def test_every_option_of_the_other_old_modules_says_what_to_write(
    namespace: str, name: str, value: object, instead: str
) -> None:
    (failure,) = system({namespace: {name: value}})["failures"]
    assert f"services.{namespace}.{name}" in failure
    assert instead in failure


def test_a_port_that_the_old_module_opened_is_not_closed_in_silence() -> None:
    def told(**settings: Any) -> bool:
        return any("opened the firewall" in text for text in system(settings)["warnings"])

    old = {"comfyui-ipex": {"enable": True, "host": "0.0.0.0"}}
    assert told(**old)
    assert not told(**old, **{"comfyui-xpu": {"openFirewall": True}})
    assert not told(**{"comfyui-ipex": {"enable": True, "host": "127.0.0.1"}})
    assert not told(**{"comfyui-ipex": {"enable": False, "host": "0.0.0.0"}})
    assert not told(**{"comfyui-xpu": {"enable": True, "host": "0.0.0.0"}})


def test_the_old_ollama_options_reach_nixpkgs_ollama() -> None:
    old = {"enable": True, "host": "0.0.0.0", "port": 9999, "models": "/srv/o", "user": "o", "group": "g"}
    answer = system({"comfyui-xpu": {"enable": True}, "ollama-ipex": old})
    assert answer["options"]["ollamaEnable"] is True
    assert {name: answer["ollama"][name] for name in ("host", "port", "models", "user", "group")} == {
        "host": "0.0.0.0",
        "port": 9999,
        "models": "/srv/o",
        "user": "o",
        "group": "g",
    }
    assert len(answer["warnings"]) == len(old)
