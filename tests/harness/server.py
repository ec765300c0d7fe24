"""A real ComfyUI server process with the pack as a custom node."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .client import Client
from .hosts import ROOT, host_environment, host_path

PACK_NAME = "xpu-nodes"

# One thread: results do not depend on how sums are split, and threads never spin waiting for a busy core.
_STEADY = {"OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def import_seconds(log: str, pack: str) -> float:
    """The seconds that ComfyUI prints for importing a custom node pack.

    Raises:
        RuntimeError: it does not print them, or that the import failed.
    """
    listing = log.partition("Import times for custom nodes:")[2]
    found = re.search(rf"([\d.]+) seconds( \(IMPORT FAILED\))?: \S*[/\\]{re.escape(pack)}$", listing, re.MULTILINE)
    if found is None or found[2]:
        raise RuntimeError(f"ComfyUI did not load {pack}; its log ends:\n{log[-3000:]}")
    return float(found[1])


def prepare_base(base: Path, *, models: Path | None, packs: Mapping[str, Path]) -> None:
    """Lays out a ComfyUI base directory, so that the host's own folder stays untouched."""
    for name in ("custom_nodes", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    if models is not None and not (base / "models").exists():
        (base / "models").symlink_to(models, target_is_directory=True)
    for name, source in packs.items():
        link = base / "custom_nodes" / name
        if not link.exists():
            link.symlink_to(source, target_is_directory=True)


class Server:
    """One running server; use `running_server`."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, base: Path, log: Path) -> None:
        self.process = process
        self.address = address
        self.base = base
        self.log = log
        self.client = Client(address, self.log_text)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, timeout_s: float) -> None:
        """Returns when the server answers.

        Raises:
            RuntimeError: the process ended, or did not answer in time; the log's end is in the message.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                self.client.get("/system_stats")
                return
            time.sleep(0.2)
        raise RuntimeError(f"The ComfyUI server did not start; its log ends:\n{self.log_text()[-3000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def running_server(
    base: Path,
    *,
    models: Path | None = None,
    host: Path | None = None,
    arguments: Sequence[str] = ("--cpu",),
    launcher: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    packs: Mapping[str, Path] | None = None,
    steady: bool = True,
    timeout_s: float = 600,
) -> Iterator[Server]:
    """Runs a ComfyUI server until the block ends.

    Args:
        base: directory for its input, output, user data and links to packs and `models`.
        host: ComfyUI's folder; the default host where None.
        arguments: further command-line arguments of main.py.
        launcher: module and options put before main.py, e.g. ("-m", "tests.xpu_sim", "--").
        environment: variables on top of the harness' own.
        packs: custom nodes by folder name; the pack itself where None.
        steady: compute on one thread, for results that repeat on a busy machine.
    """
    host, port, log = host or host_path(), free_port(), base / "server.log"
    prepare_base(base, models=models, packs={PACK_NAME: ROOT} if packs is None else packs)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *launcher, str(host / "main.py"), *_always(base, port), *arguments],
            cwd=ROOT,
            env={**host_environment(), **(_STEADY if steady else {}), **(environment or {})},
            stdout=stream,
            stderr=subprocess.STDOUT,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if os.name == "nt" else 0,
        )
        server = Server(process, f"127.0.0.1:{port}", base, log)
        try:
            server.wait_ready(timeout_s)
            yield server
        finally:
            server.stop()


def _always(base: Path, port: int) -> tuple[str, ...]:
    """The arguments that every server gets: only reachable from here, all it writes below its base, no nodes of firms
    (half a second of a start)."""
    return (
        *("--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch", "--disable-api-nodes"),
        *("--base-directory", str(base), "--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"),
    )
