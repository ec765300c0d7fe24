"""`python -m tests.bench split`: what MultiGPU CFG Split gives over one card, evenly and by measured shares."""

from __future__ import annotations

import argparse
import importlib.util

from xpu_utils.machine.devices import find_devices

from .comfyui import use_comfyui


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("split", help="what MultiGPU CFG Split gives over one card")
    parser.add_argument("--shape", default="sdxl", help="sdxl or tiny")
    parser.add_argument("--steps", type=int, default=14, help="sampling steps a round, the first five not timed")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which the ways take turns")
    parser.add_argument("--takes", metavar="A,B", help="seconds that a condition takes at least on each card")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    devices = [device.id for device in find_devices().devices if device.type != "cpu"][:2]
    if len(devices) < 2:
        return 2, "bench split: there are no two accelerators here, see `python -m xpu_utils devices`."
    use_comfyui()
    if importlib.util.find_spec("comfy.multigpu") is None:
        return 2, "bench split: this ComfyUI has no MultiGPU CFG Split, name a newer one in COMFYUI_PATH."
    from . import split_turns, stream_turns

    takes = dict(zip(devices, map(float, (arguments.takes or "0,0").split(",")), strict=True))
    shape = stream_turns.SHAPES[arguments.shape]
    ways, equal = split_turns.measure(shape, devices, steps=arguments.steps, rounds=arguments.rounds, takes=takes)
    lines = [f"{arguments.shape}, two conditions a step", f"{'':24} {'s/step':>8} {'over ' + devices[0]:>12}"]
    lines += [
        f"{way.name:24} {way.seconds_per_step:8.4f} {ways[0].seconds_per_step / way.seconds_per_step:12.2f}"
        for way in ways
    ]
    lines.append(f"Both ways of sharing out give {'the same bits' if equal else 'DIFFERENT BITS'}.")
    return int(not equal), "\n".join(lines)
