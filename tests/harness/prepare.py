"""Makes what suites share before they run side by side: hosts, front ends, models, programs, the simulation."""

from __future__ import annotations

import sys

from tests.nix.evaluate import evaluator
from tests.xpu_sim import build

from .front_ends import NEWER, OLDEST, ensure_front_end
from .hosts import CARRIERS, host_path
from .models import ensure_models
from .programs import ensure_chromium

LAYOUTS = (
    *("sd15-tiny", "sd3-tiny", "sd15-tiny-unet", "wan-tiny", "clip-l", "clip-vision-l", "vae-sd15"),
    *("t5-base", "lora-sd15-tiny", "lora-clip-l", "controlnet-sd15-tiny", "upscaler-2x"),
    *("taesd_encoder", "taesd_decoder", "emoji"),
)


def main() -> None:
    for version in CARRIERS:
        host_path(version)
    for version in (OLDEST, *NEWER):
        ensure_front_end(version)
    ensure_models(*LAYOUTS)
    for ensure in (evaluator, ensure_chromium):
        try:
            ensure()
        except RuntimeError as error:  # the suite that needs it says so again, and fails; the others run
            print(error)
    try:
        build.load()
    except build.CannotSimulate as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
