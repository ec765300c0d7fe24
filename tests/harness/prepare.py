"""Makes what several suites share, before they run side by side: hosts, models, programs, the simulation."""

from __future__ import annotations

from tests.xpu_sim import build

from .hosts import CARRIERS, host_path
from .models import ensure_models
from .programs import ensure_program

LAYOUTS = (
    *("sd15-tiny", "sd3-tiny", "sd15-tiny-unet", "wan-tiny", "clip-l", "clip-vision-l", "vae-sd15"),
    *("lora-sd15-tiny", "controlnet-sd15-tiny", "upscaler-2x"),
)


def main() -> None:
    for version in CARRIERS:
        host_path(version)
    ensure_models(*LAYOUTS)
    ensure_program("nix-instantiate", "nix-bin")
    ensure_program("chromium", "chromium")
    build.load()


if __name__ == "__main__":
    main()
