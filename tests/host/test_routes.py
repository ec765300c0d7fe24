"""The pack's HTTP routes on a real ComfyUI server."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket

from tests.harness.hosts import host_path, host_version
from tests.harness.server import Server
from tests.harness.workflows import node, text_to_image, with_our_nodes
from xpu_utils.machine.host_memory import read_host_memory

from .conftest import run_ok

OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.yaml"


def ask(
    server: Server, method: str, path: str, *, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.address, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def test_the_routes_keep_to_their_description(server: Server, tmp_path: Path) -> None:
    command = [*(sys.executable, "-m", "schemathesis.cli"), "run", str(OPENAPI), "--url", f"http://{server.address}"]
    # On a busy machine a kernel's child process takes longer than the ten seconds that are usual.
    command += ["--request-timeout", "60", "--max-response-time", "60"]
    command += ["--max-examples", "15", "--checks", "all", "--workers", "1", "--seed", "1", "--no-color"]
    # ComfyUI serves its pages below "/", so a GET of /xpu/free is a page that is not there: 404 and not 405.
    command += ["--exclude-checks", "unsupported_method"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    tested = re.search(r"Operations:\s+8 selected / 8 total", done.stdout)
    assert tested, done.stdout[-2000:]


def test_devices_are_those_of_the_host(server: Server) -> None:
    _, answer = ask(server, "GET", "/xpu/devices")
    assert [device["id"] for device in answer["devices"]] == ["cpu"]
    assert answer["rejected"]


def test_telemetry_of_the_host_agrees_with_the_system(server: Server) -> None:
    _, answer = ask(server, "GET", "/xpu/telemetry")
    assert answer["host"]["total_bytes"] == read_host_memory().total_bytes
    own = psutil.Process(server.process.pid).memory_info().rss
    assert answer["host"]["own_bytes"] == pytest.approx(own, rel=0.1)


def test_a_watching_page_is_sent_samples(server: Server) -> None:
    socket = websocket.create_connection(f"ws://{server.address}/ws?clientId=watch", timeout=60)
    ask(server, "GET", "/xpu/telemetry")
    ask(server, "GET", "/xpu/telemetry?interval_seconds=0.5")
    kinds = []
    deadline = time.monotonic() + 8
    while kinds.count("xpu.telemetry") < 3 and time.monotonic() < deadline:
        frame = socket.recv()
        if isinstance(frame, str):
            kinds.append(json.loads(frame)["type"])
    socket.close()
    assert kinds.count("xpu.telemetry") == 3


def test_the_doctor_sees_how_comfyui_was_started_and_runs_real_kernels(server: Server) -> None:
    _, answer = ask(server, "GET", "/xpu/doctor?kernels=true")
    by_code = {finding["code"]: finding for finding in answer["findings"]}
    assert by_code["kernel"]["what"] == "Kernels run on cpu"
    assert by_code["torch-not-xpu"]["fixes"]["debian"].startswith(f"{sys.executable} -m pip install")
    (version,) = (by_code[code]["what"] for code in ("comfyui", "comfyui-newer") if code in by_code)
    assert version.startswith(f"ComfyUI {host_version(host_path())} is ")


def test_hooks_and_jobs_are_listed(server: Server) -> None:
    status, answer = ask(server, "GET", "/xpu/hooks")
    assert status == 200
    assert {"free memory", "previews", "protection"} <= {hook["name"] for hook in answer["hooks"]}
    assert all(set(hook) == {"name", "state", "reason"} for hook in answer["hooks"])
    run_ok(server, with_our_nodes(text_to_image(size=64, steps=1, seed=90)))
    status, answer = ask(server, "GET", "/xpu/jobs")
    assert status == 200
    assert 1 <= len(answer["jobs"]) <= 50
    assert ask(server, "GET", "/xpu/jobs?limit=1") == (200, {"jobs": answer["jobs"][:1]})


def test_free_is_done_by_the_thread_that_runs_prompts(server: Server) -> None:
    assert ask(server, "POST", "/xpu/free", body="{}") == (202, {"when": "now"})
    own = {"Origin": f"http://{server.address}", "Sec-Fetch-Site": "same-origin"}
    assert ask(server, "POST", "/xpu/free", body="{}", headers=own)[0] == 202
    for width in (64, 72):  # the second begins when all that was asked for before the first is done
        latent = node("TestLatent", width=width, height=64)
        run_ok(server, {"latent": latent, "dump": node("TestDump", anything=["latent", 0], name="latent")})
    said = re.findall(r"TEST: (a node|unloading) in thread (\d+)", server.log_text())
    assert {what for what, _ in said} == {"a node", "unloading"}
    assert len({thread for _, thread in said}) == 1


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Origin": "https://evil.example", "Host": "comfy.lan:8188"}, "{}", 403),
        ({"Origin": "null"}, "{}", 403),
        ({"Sec-Fetch-Site": "cross-site"}, "{}", 403),
        ({"Sec-Fetch-Site": "same-site"}, "{}", 403),
        ({"Content-Type": "text/plain"}, "{}", 415),
        ({}, '{"path": "/etc"}', 400),
        ({}, "{" + " " * 2000 + "}", 400),
        ({}, "[", 400),
        ({}, "[" * 1024, 400),
        ({}, None, 400),
    ],
)
def test_posts_of_other_sites_and_other_bodies_are_refused(
    server: Server, headers: dict[str, str], body: str | None, status: int
) -> None:
    for path in ("/xpu/free", "/xpu/restart"):
        assert ask(server, "POST", path, body=body, headers=headers)[0] == status


def test_a_restart_that_mends_nothing_is_refused(server: Server) -> None:
    assert ask(server, "GET", "/xpu/restart") == (200, {"reason": ""})
    status, answer = ask(server, "POST", "/xpu/restart", body="{}")
    assert status == 409
    assert answer["error"].endswith("nothing that a restart would mend.")


@pytest.mark.parametrize(
    "path",
    [
        *("/xpu/doctor?kernels=true", "/xpu/doctor?packs=true", "/xpu/doctor?kernels=true&packs=false"),
        *("/xpu/telemetry", "/xpu/telemetry?interval_seconds=0.5"),
    ],
)
def test_another_sites_page_cannot_have_devices_and_packs_examined(server: Server, path: str) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert ask(server, "GET", path, headers=elsewhere)[0] == 403
    assert ask(server, "GET", path, headers={"Sec-Fetch-Site": "same-origin"})[0] == 200
    # What costs nothing is as open as the host's own routes: newer hosts show other sites nothing at all.
    hosts_own = ask(server, "GET", "/features", headers=elsewhere)[0]
    assert ask(server, "GET", "/xpu/doctor", headers=elsewhere)[0] == hosts_own


@pytest.mark.parametrize(
    "query",
    [
        "/xpu/telemetry?interval_seconds=nan",
        "/xpu/telemetry?interval_seconds=0",
        "/xpu/telemetry?interval_seconds=1&interval_seconds=2",
        "/xpu/doctor?kernels=yes",
        "/xpu/doctor?folder=/etc",
        "/xpu/jobs?limit=0",
        "/xpu/jobs?limit=51",
        "/xpu/jobs?limit=1.5",
        "/xpu/jobs?limit=%C2%B2",
        "/xpu/jobs?newest=1",
    ],
)
def test_queries_outside_the_description_are_refused_in_a_sentence(server: Server, query: str) -> None:
    status, answer = ask(server, "GET", query)
    assert status == 400
    assert answer["error"].endswith(".")


def test_memory_stays_constant_under_polling_pages(server: Server) -> None:
    def poll(times: int) -> None:
        for _ in range(times):
            for path in ("telemetry?interval_seconds=0.5", "jobs", "hooks", "doctor", "devices"):
                assert ask(server, "GET", f"/xpu/{path}")[0] == 200

    def poll_together(times: int) -> int:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(poll, [times] * 4))
        return int(psutil.Process(server.process.pid).memory_info().rss)

    before = poll_together(20)
    after = poll_together(40)  # 800 requests
    assert after - before < 8 << 20
    assert psutil.Process(server.process.pid).num_threads() < 64
