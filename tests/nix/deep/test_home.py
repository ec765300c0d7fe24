"""The Home Manager service in the real module system."""

from __future__ import annotations

from typing import Any

import pytest

from ..evaluate import evaluate, nix
from ..wrong import WRONG


def home(settings: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = evaluate(
        f"import ./tests/nix/deep/home.nix {{ settings.services.comfyui-xpu = {nix(settings)}; }}"
    )
    return answer


def test_a_user_service_keeps_its_files_in_the_user_s_folder() -> None:
    service = home({"enable": True, "port": 9000})["unit"]["Service"]
    assert '"--base-directory=/home/ann/.local/share/comfyui-xpu"' in service["ExecStart"]
    assert '"--port=9000"' in service["ExecStart"]
    assert service["ExecStartPre"] == "/nix/store/comfyui-xpu-link"
    assert service["NoNewPrivileges"] is True


def test_values_with_blanks_stay_one_variable() -> None:
    environment = home({"enable": True, "environment": {"A": "1 2"}})["unit"]["Service"]["Environment"]
    assert '"A=1 2"' in environment
    assert '"ONEAPI_DEVICE_SELECTOR=level_zero:gpu"' in environment


def test_what_systemd_would_replace_is_escaped() -> None:
    made = home({"enable": True, "environment": {"A": "50%"}, "extraArgs": ["--front-end-root=/srv/$a b/%h"]})["unit"][
        "Service"
    ]
    assert '"A=50%%"' in made["Environment"]
    assert made["ExecStart"].endswith(' "--front-end-root=/srv/$$a b/%%h"')


def test_the_user_s_home_is_left_alone() -> None:
    environment = home({"enable": True})["unit"]["Service"]["Environment"]
    assert not any(entry.startswith('"HOME=') for entry in environment)


def test_nothing_happens_unless_enabled() -> None:
    assert home({"enable": False}) == {"failures": [], "unit": None, "packages": []}


@pytest.mark.parametrize("name", ["OpenCL", "argument of an option", "node outside"])
def test_wrong_configurations_are_refused_here_too(name: str) -> None:
    settings, words = WRONG[name]
    (failure,) = evaluate(
        f"(import ./tests/nix/deep/home.nix {{ settings.services.comfyui-xpu ="
        f" {nix({'enable': True} | settings)}; }}).failures"
    )
    assert words in failure


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        ("ipex.enable", True, "services.comfyui-xpu.enable"),
        ("ipex.pythonPackages", ["torch"], "pkgs.python-xpu.withPackages"),
        ("ipex.aliases", {"a": "b"}, "programs.bash.shellAliases"),
        ("ipex.development.enable", True, "nix develop"),
        ("ipex.development.vscode", True, "programs.vscode"),
        ("ipex.development.jupyter", True, "python.jupyter"),
        ("comfyui-ipex.enable", True, "services.comfyui-xpu.enable"),
        ("comfyui-ipex.workspace.directory", "~/c", "services.comfyui-xpu.dataDir"),
        ("comfyui-ipex.workspace.workflows", "~/w", "nothing, ComfyUI keeps workflows"),
        ("comfyui-ipex.models.symlinks", {"vae": "~/vae"}, "services.comfyui-xpu.models.folders"),
        ("comfyui-ipex.development.enable", True, "nix develop"),
        ("comfyui-ipex.development.customNodes", [], "services.comfyui-xpu.customNodes"),
        ("comfyui-ipex.development.vscode", True, "programs.vscode"),
        ("comfyui-ipex.development.jupyter", True, "python.jupyter"),
        ("comfyui-ipex.aliases", {"a": "b"}, "programs.bash.shellAliases"),
    ],
)
def test_every_option_of_the_old_modules_says_what_to_write(option: str, value: object, instead: str) -> None:
    (failure,) = evaluate(
        f"(import ./tests/nix/deep/home.nix {{ settings.programs.{option} = {nix(value)}; }}).failures"
    )
    assert f"programs.{option}" in failure
    assert instead in failure


def test_a_server_that_always_fails_is_left_alone() -> None:
    assert home({"enable": True})["unit"]["Unit"].items() >= {("StartLimitIntervalSec", 300), ("StartLimitBurst", 5)}
