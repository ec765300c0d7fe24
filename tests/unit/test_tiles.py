"""Which tiles are tried for a VAE, and which is taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.memory.tiles import (
    COHERENT_PIXELS,
    FEWEST_FRAMES,
    Memory,
    Tile,
    Tiling,
    first_that_fits,
    next_smaller,
    tiles_for,
)

GIB = 1 << 30


def kl_decode_bytes(tile: Tile) -> float:
    """ComfyUI's estimate for AutoencoderKL in fp32."""
    return 2178 * tile.side_pixels**2 * 4


def test_pictures_are_cut_into_ever_smaller_squares() -> None:
    assert [tile.side_pixels for tile in tiles_for(1024, 1536)] == [1024, 768, 512, 384, 256, 128]


def test_a_picture_below_the_smallest_tile_still_has_one() -> None:
    assert tiles_for(64, 64) == [Tile(128)]


def test_video_is_cut_in_space_then_in_time_then_in_space_again() -> None:
    tiles = tiles_for(720, 1280, 21)
    assert tiles[:5] == [Tile(side, 21) for side in (1024, 768, 512, 384, 256)]
    assert tiles[5:] == [Tile(COHERENT_PIXELS, frames) for frames in (11, 6, 3, 2)] + [Tile(128, FEWEST_FRAMES)]


def test_small_video_is_cut_in_space_first_too() -> None:
    assert tiles_for(256, 256, 3) == [Tile(128, 3), Tile(128, 2)]


def test_a_single_latent_frame_is_not_cut_in_time() -> None:
    assert {tile.latent_frames for tile in tiles_for(512, 512, 1)} == {1}


def test_the_largest_tile_that_free_memory_holds_is_taken() -> None:
    tiles = tiles_for(2048, 2048)
    assert first_that_fits(tiles, kl_decode_bytes, Memory(9 * GIB)) == Tile(1024)
    assert first_that_fits(tiles, kl_decode_bytes, Memory(3 * GIB)) == Tile(512)
    assert first_that_fits(tiles, kl_decode_bytes, Memory(1)) == Tile(128)


def test_the_single_allocation_limit_counts_beside_free_memory() -> None:
    whole_bytes = kl_decode_bytes(Tile(2048))
    assert Memory(64 * GIB).holds(whole_bytes)
    assert Memory(64 * GIB, 8 * GIB).holds(whole_bytes)
    assert not Memory(64 * GIB, 4 * GIB).holds(whole_bytes)


@given(st.integers(8, 9000), st.integers(8, 9000), st.none() | st.integers(1, 200))
def test_every_retry_is_smaller_and_retries_end(height: int, width: int, frames: int | None) -> None:
    tiles = tiles_for(height, width, frames)
    tile, seen = tiles[0], 1
    while (smaller := next_smaller(tiles, tile)) is not None:
        assert smaller.volume < tile.volume
        tile, seen = smaller, seen + 1
    assert tile == tiles[-1]
    assert seen <= len(tiles)


def test_the_reason_reads_as_a_sentence_part() -> None:
    tiling = Tiling(Tile(512, 5), f"because the whole needs about 9.0 GiB and {Memory(3 * GIB, 4 * GIB)}")
    assert str(tiling) == (
        "in tiles of 512x512 pixels and 5 latent frames, because the whole needs about 9.0 GiB and 3.0 GiB are free, "
        "4.0 GiB in one piece at most"
    )
