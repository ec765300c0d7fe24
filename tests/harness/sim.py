"""`make sim`: a ComfyUI server with the pack on a simulated Arc B580, for a person to click through."""

from __future__ import annotations

import contextlib
import time

from .hosts import CACHE
from .prepare import LAYOUTS, ensure_models
from .simulated import simulated_server


def main() -> None:
    models = ensure_models(*LAYOUTS)
    with simulated_server(CACHE / "sim", {"devices": ["arc-b580"]}, models=models, steady=False) as (server, _):
        print(f"ComfyUI on a simulated Arc B580: http://{server.address} (Ctrl+C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while server.process.poll() is None:
                time.sleep(1)


if __name__ == "__main__":
    main()
