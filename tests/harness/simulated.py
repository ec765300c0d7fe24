"""The real ComfyUI server on simulated Intel devices."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.xpu_sim.control import Client as Simulation

from .server import Server, running_server

# What models compute with; views, copies and casts of weights are no computing.
COMPUTING = (
    *("convolution", "conv2d", "linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "scaled_dot_product_attention"),
    *("native_group_norm", "group_norm", "native_layer_norm", "layer_norm", "silu", "silu_", "gelu", "softmax"),
)


@contextlib.contextmanager
def simulated_server(base: Path, config: Mapping[str, Any], **options: Any) -> Iterator[tuple[Server, Simulation]]:
    """Runs a server on simulated devices; answers it and the handle that steers the simulation.

    Args:
        base: the server's base directory.
        config: tests/xpu_sim's configuration, without its control port.
        options: further arguments of `running_server`.
    """
    base.mkdir(parents=True, exist_ok=True)
    port_file, config_file = base / "simulation.port", base / "simulation.json"
    port_file.unlink(missing_ok=True)
    config_file.write_text(json.dumps({**config, "control_port": 0, "control_port_file": str(port_file)}))
    launcher = ("-m", "tests.xpu_sim", "--config", str(config_file), "--")
    # The first start builds the simulation.
    with running_server(base, launcher=launcher, **{"arguments": (), "timeout_s": 600, **options}) as server:
        yield server, Simulation(_port(port_file))


def _port(file: Path) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if file.is_file():
            return int(file.read_text())
        time.sleep(0.05)
    raise TimeoutError(f"The simulation did not write {file}.")
