"""`make sim`: the server that a person clicks through."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.harness.client import Client
from tests.harness.hosts import ROOT

# As in a terminal: a process that was started in the background ignores the interrupt.
SERVE = """
import pathlib, signal
from tests.harness import sim
signal.signal(signal.SIGINT, signal.default_int_handler)
sim.main(pathlib.Path({base!r}))
"""


def test_it_serves_a_simulated_b580_and_the_workflow_to_open_until_it_is_interrupted(tmp_path: Path) -> None:
    serve = SERVE.format(base=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", serve],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        address = re.search(r"http://(127\.0\.0\.1:\d+)/\?template=(\w+)&source=(\w+) \(Ctrl\+C ends it\)", line)
        assert address, line + process.stdout.read()
        client = Client(address[1])
        assert [device["name"] for device in client.get("/system_stats")["devices"]] == [
            "xpu:0 Intel(R) Arc(TM) B580 Graphics"
        ]
        template = client.get(f"/api/workflow_templates/{address[3]}/{address[2]}.json")
        typed = {node["type"]: node.get("widgets_values") for node in template["nodes"]}
        loader = client.get("/object_info/XPULoadCheckpoint")["XPULoadCheckpoint"]
        assert typed["XPULoadCheckpoint"][0] == "emoji.safetensors"
        assert "emoji.safetensors" in json.dumps(loader["input"])
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=300) == ("", None)
        assert process.returncode == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
