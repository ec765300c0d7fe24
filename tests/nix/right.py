"""A right configuration, as the module system completes it."""

from __future__ import annotations

import copy
from typing import Any

RIGHT: dict[str, Any] = {
    "acceleration": "xpu",
    "host": "127.0.0.1",
    "port": 8188,
    "dataDir": "/var/lib/comfyui-xpu",
    "models": {"files": {}, "folders": []},
    "customNodes": {},
    "extraArgs": [],
    "environment": {},
    "device": {"selector": "level_zero:gpu", "affinity": None},
    "ollama": {"enable": False, "hosts": ["http://127.0.0.1:11434"], "shareGpu": True},
    "user": "comfyui-xpu",
    "openFirewall": False,
}


def configured(**settings: Any) -> dict[str, Any]:
    """The right configuration with some settings changed, as the module system would complete it."""
    cfg = copy.deepcopy(RIGHT)
    for name, value in settings.items():
        if isinstance(value, dict) and name != "customNodes":
            cfg[name] = cfg[name] | value
        else:
            cfg[name] = value
    cfg["models"]["files"] = {
        name: {"url": None, "hash": None, "path": None} | file for name, file in cfg["models"]["files"].items()
    }
    return cfg
