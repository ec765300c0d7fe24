"""Tiles for a VAE: which sizes to try, and which of them fits into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from .sizes import GIB

SIDES_PIXELS = (2048, 1536, 1024, 768, 512, 384, 256, 128)
"""Tile sides. A quarter, the overlap, and a half, the host's narrow passes, are multiples of every VAE's scale (at
most 32)."""

COHERENT_PIXELS = 256
"""Video is cut in space down to this side before it is cut in time: the host's own tile, and seams in time flicker."""

FEWEST_FRAMES = 2
"""Latent frames of the shortest tile: the host's own least."""

LARGEST_ALLOCATION_SHARE = 8
"""A VAE's largest tensor is about this part of the host's estimate: in ComfyUI's AutoencoderKL, 256 channels at full
size of the 2178 that the estimate counts."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A piece of a picture or video."""

    side_pixels: int
    latent_frames: int | None = None
    """None for pictures."""

    @property
    def volume(self) -> int:
        return self.side_pixels**2 * (self.latent_frames or 1)

    def __str__(self) -> str:
        size = f"{self.side_pixels}x{self.side_pixels} pixels"
        return size if self.latent_frames is None else f"{size} and {self.latent_frames} latent frames"


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a device has for the next allocations."""

    free_bytes: int
    single_allocation_limit_bytes: int | None = None

    def __str__(self) -> str:
        limit = self.single_allocation_limit_bytes
        text = f"{self.free_bytes / GIB:.1f} GiB are free"
        return text if limit is None else f"{text}, {limit / GIB:.1f} GiB in one piece at most"

    def holds(self, needed_bytes: float) -> bool:
        """Whether work that the host estimates to need so much fits, its largest tensor included."""
        limit = self.single_allocation_limit_bytes
        return needed_bytes <= self.free_bytes and (limit is None or needed_bytes <= limit * LARGEST_ALLOCATION_SHARE)


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How something was decoded or encoded in tiles, and why not as a whole."""

    tile: Tile
    why: str

    def __str__(self) -> str:
        return f"in tiles of {self.tile}, {self.why}"


def tiles_for(height_pixels: int, width_pixels: int, latent_frames: int | None = None) -> Sequence[Tile]:
    """All tiles worth trying for a picture or video, largest first; each is smaller than the whole in some direction.

    The smallest is there even for a whole that is smaller still.
    """
    sides = [side for side in SIDES_PIXELS if side < max(height_pixels, width_pixels)] or [SIDES_PIXELS[-1]]
    if latent_frames is None:
        return [Tile(side) for side in sides]
    wide = [side for side in sides if side >= COHERENT_PIXELS]
    narrow = [side for side in sides if side < COHERENT_PIXELS]
    tiles = [Tile(side, latent_frames) for side in wide or sides]
    shorter = list(_halvings(latent_frames))
    tiles += [Tile((wide or sides)[-1], frames) for frames in shorter]
    tiles += [Tile(side, (shorter or [latent_frames])[-1]) for side in narrow]
    return list(dict.fromkeys(tiles))


def _halvings(frames: int) -> Iterator[int]:
    while frames > FEWEST_FRAMES:
        frames = max(FEWEST_FRAMES, (frames + 1) // 2)
        yield frames


def first_that_fits(tiles: Sequence[Tile], estimate: Callable[[Tile], float], memory: Memory) -> Tile:
    """The largest tile whose estimated bytes the memory holds, else the smallest."""
    return next((tile for tile in tiles if memory.holds(estimate(tile))), tiles[-1])


def next_smaller(tiles: Sequence[Tile], failed: Tile) -> Tile | None:
    """The largest tile of at most half the failed one's volume, else the smallest; None after the smallest."""
    smaller = tiles[tiles.index(failed) + 1 :]
    return next((tile for tile in smaller if 2 * tile.volume <= failed.volume), smaller[-1] if smaller else None)
