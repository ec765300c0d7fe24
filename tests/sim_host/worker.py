"""Runs functions of a module of this folder inside ComfyUI's code on simulated devices, without a server.

`python -m tests.xpu_sim --config FILE -- tests/sim_host/worker.py HOST MODULE ANSWERS`: calls every function of
MODULE whose name begins with `case_` and writes what they answer, by name, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.harness.hosts import ROOT
from tests.harness.in_process import enter


def answers(module: str, config: Mapping[str, Any], base: Path, host: Path, environment: Mapping[str, str]) -> Any:
    """Runs a module's cases in a process of their own and returns their answers by name.

    Raises:
        RuntimeError: a case failed; the message holds the end of its output.
    """
    config_file, answers_file = base / f"{module}.config.json", base / f"{module}.json"
    config_file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.xpu_sim", "--config", str(config_file), "--"]
    command += [str(Path(__file__)), str(host), module, str(answers_file)]
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=500)
    if done.returncode:
        raise RuntimeError(f"The cases of {module} failed: {(done.stdout + done.stderr)[-4000:]}")
    return json.loads(answers_file.read_text())


def main() -> None:
    host, name, answers_file = sys.argv[1:]
    enter(host)
    module = importlib.import_module(f"tests.sim_host.{name}")
    cases = {key.removeprefix("case_"): case for key, case in vars(module).items() if key.startswith("case_")}
    with torch.inference_mode():  # as ComfyUI runs its nodes
        Path(answers_file).write_text(json.dumps({key: case() for key, case in cases.items()}))
    os._exit(0)  # simulated devices and ComfyUI's threads need no orderly end


if __name__ == "__main__":
    main()
