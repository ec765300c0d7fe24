"""What the simulation costs: a diffusion network on the CPU and on a simulated device, in turns.

`python -m tests.xpu_sim.cost` prints the table of README.md. Times are CPU seconds of one thread, the
best of several rounds, so that other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from .config import Config
from .simulation import install

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(F.silu(norm(y)))
        return x + y


class Transformer(nn.Module):
    HEADS = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.widen = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        y = x.flatten(2).transpose(1, 2)
        q, k, v = (
            part.view(batch, -1, self.HEADS, channels // self.HEADS).transpose(1, 2)
            for part in self.to_qkv(self.norms[0](y)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, channels)
        y = y + self.to_out(attended)
        value, gate = self.widen(self.norms[1](y)).chunk(2, -1)
        y = y + self.narrow(value * F.gelu(gate))
        return y.transpose(1, 2).reshape(batch, channels, height, width)


class Network(nn.Module):
    """The layers of a diffusion U-Net: down, and up again with the skipped tensors."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(Residual(width), Transformer(width)) for width in channels)
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.up = nn.ModuleList(nn.Conv2d(a + b, a, 3, padding=1) for a, b in pairs)
        self.last = nn.Conv2d(channels[0], 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](self.first(x))
        skipped = []
        for down, block in zip(self.down, self.blocks[1:], strict=True):
            skipped.append(x)
            x = block(down(x))
        for up, skip in zip(reversed(self.up), reversed(skipped), strict=True):
            x = up(torch.cat((F.interpolate(x, scale_factor=2), skip), 1))
        return self.last(x)


class Case(NamedTuple):
    dtype: str
    device: str


def native() -> set[str]:
    """The types that the CPU has instructions for; in others one of its calls takes minutes."""
    return {"fp32", "bf16"} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {"fp32"}


def measure(channels: tuple[int, ...], rounds: int) -> dict[Case, float]:
    """Return the CPU seconds of one call, the best of `rounds` taken in turns."""
    torch.manual_seed(0)
    network, latent = Network(channels).eval(), torch.randn(2, 4, 32, 32)
    calls = {
        Case(name, device): (copy.deepcopy(network).to(device, dtype), latent.to(device, dtype))
        for name, dtype in DTYPES.items()
        for device in ("cpu", "xpu")
        if device == "xpu" or name in native()
    }
    best: dict[Case, float] = {}
    progress = tqdm(total=rounds * len(calls), desc="Cost", unit="call")
    for _ in range(rounds):
        for case, (model, inputs) in calls.items():
            start = time.process_time()
            with torch.no_grad():
                model(inputs)
            seconds = time.process_time() - start
            best[case] = min(best.get(case, seconds), seconds)
            progress.update()
    progress.close()
    return best


def table(best: dict[Case, float]) -> str:
    """Return the Markdown table; what is computed in fp32 is compared with the CPU's fp32."""
    lines = ["| | CPU | simulated | ratio |", "|---|---|---|---|"]
    for dtype in DTYPES:
        against = Case(dtype if dtype in native() else "fp32", "cpu")
        simulated = best[Case(dtype, "xpu")]
        lines.append(
            f"| {dtype} | {best[against]:.3f} s{' (fp32)' if against.dtype != dtype else ''} "
            f"| {simulated:.3f} s | {simulated / best[against]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--channels", type=int, nargs="+", default=[128, 256, 512], help="multiples of 32")
    options = parser.parse_args()
    install(Config())
    torch.set_num_threads(1)
    print(table(measure(tuple(options.channels), options.rounds)))


if __name__ == "__main__":
    main()
