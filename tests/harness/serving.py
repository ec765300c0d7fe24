"""The `serve` command, running, and malformed requests to it: `python -m tests.harness.serving HOST:PORT`."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path

from .client import Client
from .hosts import host_path
from .many_workers import command
from .models import ensure_models
from .server import free_port

ROUTES = (
    *("/prompt", "/queue", "/history", "/interrupt", "/view", "/upload/image", "/upload/mask", "/object_info"),
    *("/system_stats", "/features", "/ws", "/models", "/embeddings", "/history/x", "/models/x", "/", "/xpu/free"),
)
NAMES = ("../a.png", "/etc/passwd", "a\0b", "..\\a", "C:\\a", "con", ".", "", "a" * 3000, "\x9b", "a.png", "%2e%2e/a")
KINDS = ("application/json", "multipart/form-data; boundary=b", "multipart/form-data", "text/plain; charset=none", "")
JSON = (
    *("", "{", "[]", "null", "1e999", "NaN", '"\\ud800"', "[" * 5000, '{"a":' * 900, "9" * 5000),
    *('{"prompt": 1}', '{"prompt": {"1": []}}', '{"prompt": {"1": {"class_type": [], "inputs": {}}}}'),
    *('{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}}', '{"delete": 1}'),
    *('{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": ["9", "x"]}}}}', '{"delete": [{}]}'),
    *('{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": [[[]], {}]}}}}', '{"prompt_id": {}}'),
    *('{"prompt": {"\\ud800": {"class_type": "PreviewAny", "inputs": {"source": "\\ud800"}}}}', '{"clear": "\\u0000"}'),
    *('{"prompt": {}, "prompt_id": "../../x"}', '{"prompt": {}, "number": "x"}', '{"prompt": {}, "extra_data": 1}'),
    *('{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "../../etc/passwd"}}}}', '{"prompt": null}'),
)


@contextlib.contextmanager
def serving(
    folder: Path, *options: str, comfyui: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Client]:
    """Runs the command until the block ends, with the tiny checkpoint, on this machine's CPU.

    Args:
        comfyui: another one than the host.

    Raises:
        RuntimeError: no worker got ready, or it ended badly; what it said is in the message.
    """
    port, log = free_port(), folder / "serve.log"
    given = ("--comfyui", str(comfyui or host_path()), "--models", str(ensure_models("sd15-tiny")), *options)
    line, own = command("serve", "--port", str(port), "--out", str(folder / "out"), *given)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            line, cwd=folder, env={**own, **(variables or {})}, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        client = Client(f"127.0.0.1:{port}")
        _wait_ready(process, log)
        yield client
    finally:
        process.terminate()
        code = process.wait(60)
    if code not in (0, -signal.SIGKILL):  # which only a test sends
        raise RuntimeError(f"It ended with {code}: {log.read_text(encoding='utf-8')[-3000:]}")


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if ": ready." in log.read_text(encoding="utf-8"):
            return
        time.sleep(0.2)
    raise RuntimeError(f"No worker got ready: {log.read_text(encoding='utf-8')}")


def send_malformed(address: str, count: int, *, seed: int) -> dict[int, int]:
    """Sends so many requests that nobody means; answers how often each status came (0: the connection was closed)."""
    chance, found = random.Random(seed), dict[int, int]()
    for _ in range(count):
        status = _send(address, chance)
        found[status] = found.get(status, 0) + 1
    return found


def _send(address: str, chance: random.Random) -> int:
    connection = http.client.HTTPConnection(address, timeout=60)
    path = chance.choice(("", "/api")) + chance.choice(ROUTES)
    if chance.random() < 0.3:
        path += "?" + "&".join(
            f"{key}={_quoted(chance.choice(NAMES))}" for key in ("filename", "subfolder", "type", "offset")
        )
    method = chance.choice(("GET", "POST", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"))
    try:
        connection.putrequest(method, path)
        body = _body(chance)
        connection.putheader("Content-Type", chance.choice(KINDS))
        length = chance.choice((str(len(body)),) * 8 + ("-1", "x", str(len(body) + 5)))
        connection.putheader("Content-Length", length)
        for name in ("Origin", "Sec-Fetch-Site", "Authorization", "Upgrade", "Range", "Expect", "Cookie"):
            if chance.random() < 0.05:
                connection.putheader(name, chance.choice(("null", "http://[", "websocket", "bytes=9-1", "\x80\x81")))
        connection.endheaders(body)
        if length == str(len(body) + 5):  # it waits for more than there is
            connection.sock.shutdown(1)
        return connection.getresponse().status
    except (http.client.HTTPException, OSError):
        return 0
    finally:
        connection.close()


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def _body(chance: random.Random) -> bytes:
    if chance.random() < 0.4:
        return chance.choice(JSON).encode()
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(2000))
    name = chance.choice(NAMES)
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    rest = f'--b\r\nContent-Disposition: form-data; name="original_ref"\r\n\r\n{chance.choice(JSON)}\r\n'
    subfolder = f'--b\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{chance.choice(NAMES)}\r\n--b--\r\n'
    whole = (head + "data\r\n" + rest + subfolder).encode()
    return whole[: chance.randrange(len(whole))] if chance.random() < 0.5 else whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="HOST:PORT of a running serve")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    client = Client(arguments.address)
    found = send_malformed(arguments.address, arguments.count, seed=arguments.seed)
    try:
        workers = len(client.get("/system_stats")["devices"])
    except urllib.error.HTTPError:
        workers = 0
    print(json.dumps({"statuses": dict(sorted(found.items())), "workers": workers}))
    sys.exit(bool(not workers or any(status >= 500 for status in found)))


if __name__ == "__main__":
    main()
