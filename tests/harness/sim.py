"""`make sim`: a ComfyUI server with the pack on a simulated Arc B580, for a person to click through."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from .hosts import CACHE
from .prepare import LAYOUTS, ensure_models
from .simulated import simulated_server


def main(base: Path = CACHE / "sim") -> None:
    """Serves until the server ends or the person does.

    Args:
        base: where pictures and settings are kept.
    """
    models = ensure_models(*LAYOUTS)
    with simulated_server(base, {"devices": ["arc-b580"]}, models=models, steady=False) as (server, _):
        print(f"ComfyUI on a simulated Arc B580: http://{server.address} (Ctrl+C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while server.process.poll() is None:
                time.sleep(1)


if __name__ == "__main__":
    main()
