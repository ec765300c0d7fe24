"""Steering a simulation from another process: a small HTTP server inside, a client outside."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .config import change, parse_faults
from .simulation import Simulation
from .statistics import Statistics


class _Handler(BaseHTTPRequestHandler):
    simulation: Simulation

    def do_GET(self) -> None:
        if self.path == "/stats":
            self._answer(200, self.simulation.statistics().to_json())
        else:
            self._answer(404, {"error": f"There is no {self.path}: only GET /stats."})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        try:
            document = json.loads(self.rfile.read(length) or b"null")
            self._act(document)
        except ValueError as error:
            self._answer(400, {"error": str(error)})
        else:
            self._answer(200, {})

    def _act(self, document: Any) -> None:
        if self.path == "/faults":
            self.simulation.set_faults(parse_faults(document))
        elif self.path == "/reset":
            self.simulation.reset_statistics()
        elif self.path.startswith("/let_go_on/"):
            self.simulation.let_go_on(int(self.path.removeprefix("/let_go_on/")))
        elif self.path.startswith("/device/"):
            index = int(self.path.removeprefix("/device/"))
            self.simulation.restore_device(index, change(self.simulation.device(index), document))
        else:
            raise ValueError(f"There is no {self.path}: only /faults, /reset, /let_go_on/<index> and /device/<index>.")

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: the program's own output is what a test reads."""


def serve(simulation: Simulation, port: int, port_file: str | None) -> int:
    """Start the server on 127.0.0.1 in a thread of its own and return its port."""
    handler = type("Handler", (_Handler,), {"simulation": simulation})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, name="xpu_sim control", daemon=True).start()
    chosen = int(server.server_address[1])
    if port_file:
        written = Path(port_file + ".part")
        written.write_text(str(chosen))
        written.replace(port_file)  # a reader sees nothing or the whole number
    return chosen


class Client:
    """The simulation in another process, by its control port."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def statistics(self) -> Statistics:
        """Return a snapshot of all counters."""
        return Statistics.from_json(self._call("/stats"))

    def set_faults(self, *faults: dict[str, Any]) -> None:
        """Replace all faults; each is the fields of a `Fault`."""
        self._call("/faults", list(faults))

    def reset_statistics(self) -> None:
        """Set the counters to zero."""
        self._call("/reset", {})

    def let_go_on(self, index: int) -> None:
        """Have what a hanging device did not answer go on."""
        self._call(f"/let_go_on/{index}", {})

    def change_device(self, index: int, **fields: Any) -> None:
        """Change fields of a device."""
        self._call(f"/device/{index}", fields)

    def _call(self, path: str, document: object = None) -> Any:
        data = None if document is None else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(self._address + path, data, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None
