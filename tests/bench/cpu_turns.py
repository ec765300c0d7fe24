"""The turns of the CPU benchmark: each variant's server runs the same graph, one after the other, again and again."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from tests.harness.models import ensure_models
from tests.harness.server import PACK_NAME, running_server
from tests.harness.workflows import text_to_image, with_our_nodes

from . import openvino_pack as openvino

MEASURES = {
    "step": "s/step",
    "step_cpu": "CPU seconds a step",
    "decode": "VAE decode, s",
    "encode": "text encode, s",
    "first_step": "load to first step, s",
    "peak": "peak resident size, GiB",
    "idle": "before any model, GiB",
}

Samples = dict[str, dict[str, list[float]]]
"""Variant name -> measure -> values."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run the graph."""

    name: str
    arguments: tuple[str, ...]
    ours: bool = False
    pack: Path | None = None
    """A custom node pack that makes the variant what it is."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is computed: a generated checkpoint and a picture size."""

    layout: str
    size: int
    alone: bool = False
    """Whether the weights leave no room for another server: every turn starts one of its own."""


# Nothing is kept between prompts, so that every turn loads the checkpoint.
_ALWAYS = ("--cpu", "--cache-none")
STOCK = Variant("stock", _ALWAYS)
BEST = Variant("stock, best flags", (*_ALWAYS, "--use-pytorch-cross-attention", "--bf16-vae"))
BEST_WITHOUT_BF16 = Variant(BEST.name, (*_ALWAYS, "--use-pytorch-cross-attention"))
OURS = Variant("XPU Nodes", _ALWAYS, ours=True)
OPENVINO = Variant(
    "OpenVINO", (*_ALWAYS, "--use-pytorch-cross-attention"), pack=Path(__file__).with_name("openvino_pack")
)

SHAPES = {
    "sd15": Shape("sd15", 512),
    "sdxl": Shape("sdxl", 768, alone=True),
    "dit": Shape("sd3-small", 512),
    "tiny": Shape("sd15-tiny", 64),
}
FULL_SHAPES = ("sd15", "sdxl", "dit")
"""What `--shape all` measures."""


def variants_for(ceilings: Mapping[str, float]) -> tuple[Variant, ...]:
    """The variants of a run on a CPU whose products reach these speeds."""
    best = BEST if ceilings["bf16"] > ceilings["fp32"] else BEST_WITHOUT_BF16
    return (STOCK, best, OURS, *([OPENVINO] if openvino.installed() else []))


def measure(variants: Sequence[Variant], shape: Shape, *, rounds: int, steps: int, threads: int | None) -> Samples:
    """Runs the variants in turns, another first each time; the first turn only warms up servers that stay."""
    samples: Samples = {variant.name: {name: [] for name in MEASURES} for variant in variants}
    turns = [
        (turn, variant) for turn in range(rounds if shape.alone else rounds + 1) for variant in rotated(variants, turn)
    ]
    read_through(checkpoint(shape))
    with contextlib.ExitStack() as stack, TurnBar([variant.name for _, variant in turns]) as bar:
        servers = {} if shape.alone else {v: stack.enter_context(server(v, shape, threads)) for v in variants}
        for turn, variant in turns:
            own = server(variant, shape, threads) if shape.alone else contextlib.nullcontext(servers[variant])
            with bar.turn(f"{shape.layout}, {variant.name}"), own as running:
                found = run_prompt(running, variant, graph(variant, shape, steps, turn))
            # A server holds no model before its first prompt only, which warms up those that stay.
            fresh, warm = shape.alone or turn == 0, shape.alone or turn > 0
            for name in found:
                if fresh if name == "idle" else warm:
                    samples[variant.name][name] += found[name]
    return samples


def rotated(variants: Sequence[Variant], turn: int) -> list[Variant]:
    """The variants with another one first in each turn: whoever comes first meets the machine as others left it."""
    first = turn % len(variants)
    return [*variants[first:], *variants[:first]]


class TurnBar:
    """A progress bar over turns of unequal length, with the time left by what each variant took before."""

    def __init__(self, names: Sequence[str]) -> None:
        self._left = list(names)
        self._seconds: dict[str, list[float]] = {}
        self._bar = tqdm(total=len(names), bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} prompts{postfix}")

    def __enter__(self) -> TurnBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @contextlib.contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Surrounds the next turn."""
        self._bar.set_postfix_str(what if not self._seconds else f"{what}, about {self.left_s() / 60:.0f} min left")
        started = time.monotonic()
        yield
        self.done(time.monotonic() - started)

    def done(self, seconds: float) -> None:
        """Counts the next turn as done in that time."""
        self._seconds.setdefault(self._left.pop(0), []).append(seconds)
        self._bar.update()

    def left_s(self) -> float:
        """Seconds that the turns left will take; one of a variant that has had none counts as the mean of all."""
        means = {name: statistics.mean(seconds) for name, seconds in self._seconds.items()}
        typical = statistics.mean(means.values())
        return sum(means.get(name, typical) for name in self._left)


def run_prompt(running: Any, variant: Variant, workflow: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of each part of a prompt, and the server's memory before and at its peak."""
    clock = ProcessClock(running.process.pid)
    idle_gib = psutil.Process(running.process.pid).memory_info().rss / 2**30
    result = running.client.run(workflow, on_event=clock, timeout_s=3600)
    if result.error is not None:
        raise RuntimeError(f"bench cpu: {variant.name} failed: {result.message}")
    peak_gib = peak_bytes(running.process.pid) / 2**30
    return {**durations(result.events), "step_cpu": clock.between_steps(), "peak": [peak_gib], "idle": [idle_gib]}


class ProcessClock:
    """CPU seconds that a server had used at each of its progress events; the time waiting for a core is not in them."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._marks: list[float] = []

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data.get("node") == "sampler":
            times = self._process.cpu_times()
            self._marks.append(times.user + times.system)

    def between_steps(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self._marks)]


def checkpoint(shape: Shape) -> Path:
    """The shape's checkpoint, generated if it is not there yet."""
    return ensure_models(shape.layout) / "checkpoints" / f"{shape.layout}.safetensors"


def read_through(file: Path) -> None:
    """Has the system cache a file: no variant is to pay for a disk."""
    with file.open("rb", buffering=0) as stream:
        while stream.read(64 << 20):
            pass


@contextlib.contextmanager
def server(variant: Variant, shape: Shape, threads: int | None) -> Iterator[Any]:
    """A real server for a variant, without this pack for a stock one."""
    models = checkpoint(shape).parents[1]
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    packs: dict[str, Path] | None = None if variant.ours else {}
    if variant.pack is not None:
        packs = {f"{PACK_NAME}-{variant.pack.name}": variant.pack}
    with (
        tempfile.TemporaryDirectory() as base,
        running_server(
            Path(base),
            models=models,
            arguments=variant.arguments,
            packs=packs,
            environment=environment,
            steady=False,
        ) as running,
    ):
        yield running


def graph(variant: Variant, shape: Shape, steps: int, turn: int) -> dict[str, Any]:
    """Text to picture; each turn has its own seed and prompt."""
    latent = "EmptySD3LatentImage" if shape.layout.startswith("sd3") else "EmptyLatentImage"
    workflow = text_to_image(
        f"{shape.layout}.safetensors", size=shape.size, steps=steps, seed=100 + turn, latent=latent
    )
    workflow["positive"]["inputs"]["text"] = f"a lighthouse at dusk, take {turn}"
    return with_our_nodes(workflow, device="cpu") if variant.ours else workflow


def durations(events: tuple[tuple[float, str, dict[str, Any]], ...]) -> dict[str, list[float]]:
    """Seconds of each part of a prompt, from the server's own events.

    A step is the time between two progress events; the first one also waits for the weights, so it is left out.
    """
    starts = [(when, data["node"]) for when, kind, data in events if kind == "executing"]
    ends = [*(when for when, _ in starts[1:]), events[-1][0]]
    nodes = {node: end - when for (when, node), end in zip(starts, ends, strict=True)}
    progress = [when for when, kind, data in events if kind == "progress" and data.get("node") == "sampler"]
    return {
        "step": [after - before for before, after in itertools.pairwise(progress)],
        "first_step": progress[:1],
        "decode": [nodes["decode"]],
        "encode": [nodes["positive"]],
    }


def peak_bytes(pid: int) -> float:
    """The most memory a process has had resident. The kernel keeps the figure on Linux; elsewhere psutil has it."""
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    info = psutil.Process(pid).memory_info()
    return float(getattr(info, "peak_wset", info.rss))
