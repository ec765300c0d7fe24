"""The hooks on ComfyUI's memory management: applied, stood down or unavailable, each with the reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.hosts import ROOT, host_environment, host_path

SCRIPT = """
import json
import comfy.model_management as management
import torch
from xpu_utils.host import hooks, memory

stock = management.get_free_memory
found = {}

def apply(case):
    memory.apply_free_memory_hook()
    found[case] = [str(hook) for hook in hooks.hooks()]

def fixed(dev=None, torch_free_too=False):
    return torch.xpu.mem_get_info(dev)

fixed.__module__ = management.__name__
management.get_free_memory = fixed
apply("own fix")

def another(dev=None, torch_free_too=False):
    return stock(dev, torch_free_too)

management.get_free_memory = another
apply("another pack")
del management.get_free_memory
apply("missing")
management.get_free_memory = stock
apply("applied")
found["allocated"] = torch.xpu.memory_reserved(0)
tensor = torch.zeros(1 << 20, device="xpu")
found["figures"] = [management.get_free_memory(device, True) for device in (None, torch.device("xpu"), tensor.device)]
found["cpu"] = management.get_free_memory(torch.device("cpu"), True)[0] > 1 << 30
management.get_free_memory = another
found["replaced later"] = [str(hook) for hook in hooks.hooks()]
print(json.dumps(found))
"""
PARTLY = """
import json
import comfy.model_management as management
import torch
from xpu_utils.host import cpu_engine, hooks, memory

def lost():
    raise RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)")

given_back = []
cpu_engine.give_back_freed_memory = lambda: given_back.append(True)
management.soft_empty_cache = lost
cpu_engine._give_back_with_the_cache()
try:
    management.soft_empty_cache()
except RuntimeError:
    given_back.append("and the error is passed on")

stock = torch.xpu.set_per_process_memory_fraction

def first_refuses(fraction, device):
    if device == 0:
        raise RuntimeError("no")
    stock(fraction, device)

torch.xpu.set_per_process_memory_fraction = first_refuses
memory.apply_memory_fraction()
print(json.dumps({"given back": given_back, "hooks": [str(hook) for hook in hooks.hooks()]}))
"""
GIB = 1 << 30


def run(base: Path, text: str, devices: list[object]) -> Any:
    """What a script inside ComfyUI's code on simulated devices prints last."""
    script, config = base / "script.py", base / "sim.json"
    script.write_text(text)
    config.write_text(json.dumps({"devices": devices}))
    environment = host_environment()
    environment["PYTHONPATH"] = f"{host_path()}{os.pathsep}{environment['PYTHONPATH']}"
    command = [*(sys.executable, "-m", "tests.xpu_sim", "--config", str(config)), "--", str(script)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_what_works_is_done_where_a_part_fails(tmp_path: Path) -> None:
    found = run(tmp_path, PARTLY, ["arc-b580", "arc-b580"])
    assert found["given back"] == [True, "and the error is passed on"]
    assert found["hooks"] == [
        "allocator: on, glibc keeps large freed blocks",
        "memory fraction: on, PyTorch may take at most 100% of xpu:1's memory; xpu:0: no",
    ]


def test_the_free_memory_hook_knows_when_to_stand_down(tmp_path: Path) -> None:
    found = run(tmp_path, SCRIPT, [{"preset": "arc-b580", "other_process_bytes": 7 * GIB}])
    assert found["own fix"] == ["free memory: off, this ComfyUI asks the driver itself"]
    assert found["another pack"] == ["free memory: off, get_free_memory was replaced by __main__"]
    assert found["missing"] == ["free memory: not possible, this ComfyUI has no get_free_memory"]
    assert found["applied"] == ["free memory: on, the figure of free memory counts other programs on xpu:0"]
    assert found["allocated"] == 0, "applying it takes no memory on the device"
    free_bytes, cached_bytes = found["figures"][0]
    assert 4.9 * GIB < free_bytes < 5 * GIB
    assert 0 <= cached_bytes < 1 << 22
    assert found["figures"] == [[free_bytes, cached_bytes]] * 3
    assert found["cpu"]
    assert found["replaced later"] == ["free memory: off, another pack replaced it after it was applied"]
