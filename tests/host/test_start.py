"""What the pack adds to the start of a server: little time, no device memory, and only what the host has room for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.hosts import ROOT, answer_in_comfyui
from tests.harness.server import PACK_NAME, Server, import_seconds
from tests.harness.simulated import simulated_server
from tests.harness.workflows import text_to_image, with_our_nodes

from .conftest import run_ok

LOADED_BY_IMPORT = """
import importlib, importlib.util, json
import nodes, server
(pack,) = arguments
spec = importlib.util.spec_from_file_location("pack", f"{pack}/__init__.py", submodule_search_locations=[pack])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
before = set(sys.modules)
spec.loader.exec_module(sys.modules["pack"])
for part in ("nodes", "xpu_utils.host.panel.routes", "xpu_utils.host.startup"):  # what the pack's entry point imports
    importlib.import_module(f"pack.{part}")
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(loaded - set(sys.stdlib_module_names))))
"""


UNKNOWN = """
import json
from server import PromptServer
from xpu_utils.host import hooks, startup
PromptServer.instance = object()  # whose prompts nobody can listen to
startup.apply_hooks()
print(json.dumps({hook.name: str(hook) for hook in hooks.hooks()}))
"""


@pytest.mark.core
def test_importing_the_pack_loads_nothing_that_comfyui_has_not_loaded(host: Path) -> None:
    """What makes the start of a server slow is other packages; the seconds are printed with ComfyUI's own tests."""
    loaded = answer_in_comfyui(host, LOADED_BY_IMPORT, str(ROOT))
    assert "pack" in loaded
    assert set(loaded) <= {"pack", "torch", "comfy", "comfy_api"}


def test_a_hook_that_an_unknown_comfyui_has_no_place_for_says_so_and_the_others_are_applied(host: Path) -> None:
    listed = answer_in_comfyui(host, UNKNOWN)
    reason = "not possible, this ComfyUI is none that it was made for: 'object' object has no attribute"
    assert reason in listed["protection"]
    assert listed["previews"] == "previews: on, previews are made on their own device"


def test_a_started_server_has_allocated_nothing_on_any_device(tmp_path: Path, host: Path) -> None:
    with simulated_server(tmp_path, {"devices": ["arc-b580", "arc-b580"]}, host=host) as (server, simulation):
        import_seconds(server.log_text(), PACK_NAME)
        assert server.client.get("/xpu/devices")["devices"]
        devices = simulation.statistics().devices
    assert [(device.allocated_bytes, device.peak_bytes, device.allocations) for device in devices] == [(0, 0, 0)] * 2


@pytest.mark.core
def test_a_hook_that_the_host_lacks_is_unavailable_and_logged_once(server: Server, host: Path) -> None:
    for seed in (31, 32):
        run_ok(server, with_our_nodes(text_to_image(seed=seed)))
    attention = (host / "comfy" / "ldm" / "modules" / "attention.py").read_text(encoding="utf-8")
    has_override = "REGISTERED_ATTENTION_FUNCTIONS" in attention
    states = {hook["name"]: hook["state"] for hook in server.client.get("/xpu/hooks")["hooks"]}
    assert states["attention override"] == ("applied" if has_override else "unavailable")
    told = [line for line in server.log_text().splitlines() if "change to ComfyUI, attention override:" in line]
    assert len(told) == 1
    assert has_override or "not possible, this ComfyUI has no attention override" in told[0]


def test_the_environment_is_set_before_torch_is_imported_and_the_user_s_own_wins() -> None:
    script = (
        "import os, runpy, sys; runpy.run_path('prestartup_script.py'); "
        "print(os.environ['PYTORCH_ENABLE_XPU_FALLBACK'], 'torch' in sys.modules)"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYTORCH_ENABLE_XPU_FALLBACK"}
    for given, expected in (({}, "1 False"), ({"PYTORCH_ENABLE_XPU_FALLBACK": "0"}, "0 False")):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=ROOT, env={**clean, **given}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
