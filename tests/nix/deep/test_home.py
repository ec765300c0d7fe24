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
