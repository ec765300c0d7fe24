"""What a watching panel costs the server: processor time a second, with a page that watches and with none.

    python -m tests.browser.measure_cost [--seconds 40]

The figure is the share of any sampling step that the panel can take: it is work on another thread, once an interval.
Processor time rather than the length of a step is measured, because other load on the machine does not disturb it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import psutil
import websocket

from tests.harness.server import Server
from tests.harness.simulated import simulated_server

DEFAULT_INTERVAL_SECONDS = 2
RENEW_SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as base, simulated_server(Path(base), {}) as (server, _):
        server.client.get("/xpu/telemetry")  # what is made once is made now
        alone = _load(server, seconds)
        stop = threading.Event()
        page = threading.Thread(target=_watch, args=(server, stop))
        page.start()
        time.sleep(2)
        watched = _load(server, seconds)
        stop.set()
        page.join()
        print(f"alone {alone:.3%}, watched {watched:.3%} of one core: the panel costs {watched - alone:.3%}")


def _load(server: Server, seconds: float) -> float:
    """The server's processor time over wall time."""
    process = psutil.Process(server.process.pid)
    used, started = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return float((sum(process.cpu_times()[:2]) - used) / (time.monotonic() - started))


def _watch(server: Server, stop: threading.Event) -> None:
    """Does what the panel does: renews its interest and takes the samples from the WebSocket."""
    socket = websocket.create_connection(f"ws://{server.address}/ws?clientId=cost", timeout=RENEW_SECONDS)
    renewed = float("-inf")
    while not stop.is_set():
        if time.monotonic() - renewed > RENEW_SECONDS:
            server.client.get(f"/xpu/telemetry?interval_seconds={DEFAULT_INTERVAL_SECONDS}")
            renewed = time.monotonic()
        socket.recv()
    socket.close()


if __name__ == "__main__":
    main()
