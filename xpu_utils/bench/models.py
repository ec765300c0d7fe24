"""Networks of random weights with the shapes of diffusion models, in plain PyTorch, reduced in depth.

They stand for the cost of a step, not for a picture: every layer kind and width of the original is there, fewer times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode


def flops(make: Callable[[], nn.Module], shapes: Sequence[tuple[int, ...]]) -> float:
    """Operations of one call, counted without computing or allocating anything.

    Args:
        make: makes the network.
        shapes: of its inputs.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make()(*(torch.empty(shape) for shape in shapes))
    return float(counter.get_total_flops())


class Attention(nn.Module):
    """Self- or cross-attention with an output projection."""

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(context or width, width, bias=False)
        self.value = nn.Linear(context or width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """x: [batch, tokens, width]; context: [batch, other tokens, context width]."""
        source = x if context is None else context
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(source), self.value(source))
        )
        mixed: torch.Tensor = self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class Residual(nn.Module):
    """Two 3x3 convolutions with group norms, as in U-Nets and VAEs."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)),
            *(nn.GroupNorm(32, after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1)),
        )
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, channels, height, width]."""
        total: torch.Tensor = self.skip(x) + self.layers(x)
        return total


class Transformer(nn.Module):
    """SD1.5's block on pictures: self-attention, attention to the text, feed-forward; 8 heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width, 8)
        self.text = Attention(width, 8, 768)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """x: [batch, channels, height, width]; text: [batch, 77, 768]."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.own(self.norms[0](tokens))
        tokens = tokens + self.text(self.norms[1](tokens), text)
        tokens = tokens + self.feed(self.norms[2](tokens))
        return tokens.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """SD1.5's upper two levels (320 and 640 channels), one block each way: about a seventh of its work."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 320, 3, padding=1)
        self.down = nn.ModuleList((Residual(320, 320), Residual(320, 640), Residual(640, 320)))
        self.attention = nn.ModuleList((Transformer(320), Transformer(640), Transformer(320)))
        self.last = nn.Conv2d(320, 4, 3, padding=1)

    def forward(self, latent: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """latent: [batch, 4, height, width]; text: [batch, 77, 768]."""
        upper = self.attention[0](self.down[0](self.first(latent)), text)
        lower = self.attention[1](self.down[1](F.avg_pool2d(upper, 2)), text)
        back = F.interpolate(self.down[2](lower), scale_factor=2.0, mode="nearest")
        result: torch.Tensor = self.last(self.attention[2](upper + back, text))
        return result


class DiT(nn.Module):
    """Two blocks of SD3 medium (of its 24): width 1536, 24 heads of 64."""

    def __init__(self) -> None:
        super().__init__()
        width, blocks = 1536, 2
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2 * blocks))
        self.attention = nn.ModuleList(Attention(width, width // 64) for _ in range(blocks))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
            for _ in range(blocks)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: [batch, tokens, 1536]."""
        for index, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            tokens = tokens + attention(self.norms[2 * index](tokens))
            tokens = tokens + feed(self.norms[2 * index + 1](tokens))
        return tokens


class Decoder(nn.Module):
    """SD's VAE decoder with one residual block a level: 4 latent channels to a picture 8 times as wide."""

    def __init__(self) -> None:
        super().__init__()
        widths = (512, 512, 256, 128)
        levels: list[nn.Module] = [nn.Conv2d(4, 512, 3, padding=1)]
        for before, after in zip((512, *widths), widths, strict=False):
            levels += [Residual(before, after)]
            if after is not widths[-1]:
                levels += [nn.Upsample(scale_factor=2.0), nn.Conv2d(after, after, 3, padding=1)]
        self.layers = nn.Sequential(*levels, nn.GroupNorm(32, 128), nn.SiLU(), nn.Conv2d(128, 3, 3, padding=1))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """latent: [batch, 4, height, width]."""
        picture: torch.Tensor = self.layers(latent)
        return picture
