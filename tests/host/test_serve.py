"""One address over a real worker: ComfyUI's own examples drive it, nothing malformed harms it, a lost worker's prompt
is done by the next."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from PIL import Image

from tests.harness.client import Client
from tests.harness.hosts import ROOT, host_path
from tests.harness.many_workers import wait_until
from tests.harness.serving import send_malformed, serving
from tests.harness.workflows import node, text_to_image

OPENAPI = ROOT / "docs" / "serve-openapi.yaml"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("serve")) as client:
        yield client


@pytest.mark.parametrize("name", ["websockets_api_example.py", "websockets_api_example_ws_images.py"])
def test_comfyuis_own_examples_drive_it(address: Client, name: str) -> None:
    """With another address, checkpoint and size; what they do is unchanged."""
    text = (host_path() / "script_examples" / name).read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:8188", address.address).replace("v1-5-pruned-emaonly", "sd15-tiny")
    text = re.sub(r'"(height|width)": 512', r'"\1": 64', text).replace('"steps": 20', '"steps": 1')
    line = [sys.executable, "-c", f"{text}\nprint(sum(map(len, images.values())))"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr


def test_what_is_uploaded_travels_to_the_worker_and_its_result_back(address: Client) -> None:
    drawn = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(drawn, format="PNG")
    files = {"image": ("gradient.png", drawn.getvalue())}
    answer = requests.post(
        f"http://{address.address}/api/upload/image", files=files, data={"subfolder": "a"}, timeout=60
    )
    assert answer.json() == {"name": "gradient.png", "subfolder": "a", "type": "input"}
    nodes = {
        "load": node("LoadImage", image="a/gradient.png"),
        "save": node("SaveImage", images=["load", 0], filename_prefix="b/c"),
    }
    result = address.run(nodes)
    (image,) = result.outputs["save"]["images"]
    shown = address.get_bytes("/view?" + "&".join(f"{key}={image[key]}" for key in ("filename", "subfolder", "type")))
    assert Image.open(io.BytesIO(shown)).convert("RGB").tobytes() == Image.open(drawn).tobytes()


def test_a_prompt_that_the_worker_refuses_is_answered_as_by_comfyui(address: Client) -> None:
    result = address.run(text_to_image(checkpoint="nobody-has-it.safetensors"))
    assert result.error is not None
    assert "value_not_in_list" in str(result.error["node_errors"])


def test_the_routes_keep_to_their_description(address: Client, tmp_path: Path) -> None:
    command = [*(sys.executable, "-m", "schemathesis.cli"), "run", str(OPENAPI), "--url", f"http://{address.address}"]
    command += ["--max-examples", "5", "--checks", "all", "--workers", "1", "--seed", "1", "--no-color"]
    command += ["--request-timeout", "60", "--max-response-time", "60"]
    # Which prompts and pictures are right, ComfyUI knows, not the description.
    command += ["--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"Tested:\s+18\b", done.stdout), done.stdout[-2000:]


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.matrix)])
def test_malformed_requests_end_in_no_server_error_and_no_lost_worker(address: Client, count: int) -> None:
    workers = _comfyuis()
    found = send_malformed(address.address, count, seed=1)
    assert not [status for status in found if status >= 500], found
    assert len(found) > 4
    assert _comfyuis() == workers


def test_a_worker_that_ends_has_its_prompt_done_by_the_next(address: Client) -> None:
    before = _comfyuis()
    prompt_id = address.queue(text_to_image(size=64, steps=1, seed=5))
    for process in before:
        process.kill()
    result = address.wait(prompt_id)
    assert result.error is None
    assert result.outputs["save"]["images"]
    assert not _comfyuis() & before


def test_an_idle_worker_whose_comfyui_ended_is_replaced(address: Client) -> None:
    (before,) = _comfyuis()
    before.kill()
    wait_until(lambda: bool(_comfyuis() - {before}))
    wait_until(lambda: bool(address.get("/models")))


def _comfyuis() -> set[Any]:
    """The processes of this test's workers."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            if any(part.endswith("guard.py") for part in child.cmdline()):
                found.add(child)
    return found
