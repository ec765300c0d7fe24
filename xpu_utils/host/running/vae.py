"""A VAE that decodes and encodes in tiles where the whole does not fit, decided before memory runs out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import torch
from comfy.cli_args import args

from ...decision import Decision, Kind, Subject
from ...memory.sizes import GIB
from ...memory.tiles import Memory, Tile, Tiling, first_that_fits, next_smaller, tiles_for
from ...placement import Placement
from ...recovery.faults import FaultKind
from ...recovery.ladder import Failure, Rung
from ...weights.check import first_not_finite
from ..inventory import host_inventory
from ..memory import free_others
from ..placing.apply import apply
from ..placing.deciding import decide
from ..placing.formats import WorkFormat
from ..placing.placed import placement_of
from ..recovery.moving import cpu
from ..recovery.rungs import asked_in_fp32, carry_on, check_finite, report_fault
from ..target import HOST, clone_for, is_dynamic, unload
from .counting import counting, tiles_of
from .kinds import placed_as

_ANSWERS = {"decode": "The decoded picture", "encode": "The encoded latent"}
_RETRIED = (FaultKind.OUT_OF_MEMORY, FaultKind.ALLOCATION_TOO_LARGE)


class PlacedVAE(comfy.sd.VAE):
    """ComfyUI's VAE, with tiles chosen from the memory that is free, and smaller ones after a failure.

    What fits as a whole goes ComfyUI's own way, so its result is ComfyUI's bit for bit. Tiles are blended by ComfyUI's
    own functions. Audio and 3D shapes are ComfyUI's alone.
    """

    last_tiling: Tiling | None = None
    """How the last call was done; None where it was done as a whole."""
    vae_dtype: torch.dtype
    disable_offload: bool
    _whole = False
    _failed_whole = False
    _carrying = False

    @property
    def device(self) -> torch.device:
        """Where it computes: its patcher is led elsewhere when a device fails or is lost."""
        return torch.device(self.patcher.load_device)

    @device.setter
    def device(self, device: torch.device) -> None:
        """ComfyUI's Select VAE Device says here as well where it has led the patcher."""

    @classmethod
    def of(cls, vae: comfy.sd.VAE) -> PlacedVAE:
        """A VAE object over the same weights and with the same attributes."""
        return placed_as(cls, vae)

    def decode(self, samples_in: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """Decodes a latent (N, C, H, W) or (N, C, T, H, W) into pictures (N, H, W, 3) or (N, T, H, W, 3).

        Raises:
            LadderExhaustedError: neither this device nor another can do it.
            ValueError: the latent or the weights hold NaN.
        """
        _check_latent(samples_in)
        return self._carried("decode", samples_in, lambda: self._decode(samples_in, *arguments, **options))

    def encode(self, pixel_samples: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """Encodes pictures (N, H, W, 3) into a latent; raises as `decode` does."""
        _check_picture(pixel_samples)
        return self._carried("encode", pixel_samples, lambda: self._encode(pixel_samples, *arguments, **options))

    def decode_tiled(self, samples: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """ComfyUI's, in the caller's tiles; raises as `decode` does."""
        _check_latent(samples)
        stock = super().decode_tiled
        return self._carried("decode", samples, lambda: stock(samples, *arguments, **options))

    def encode_tiled(self, pixel_samples: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """ComfyUI's, in the caller's tiles; raises as `decode` does."""
        _check_picture(pixel_samples)
        stock = super().encode_tiled
        return self._carried("encode", pixel_samples, lambda: stock(pixel_samples, *arguments, **options))

    def _carried(self, stage: str, given: torch.Tensor, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Does the work up the ladder, with an answer that is finite; on it already, just does it."""
        if self._carrying:
            return work()
        dtype, self._format = self.vae_dtype, WorkFormat(self.patcher, self.first_stage_model)

        def attempt() -> torch.Tensor:
            self._use_cpu_engine()
            answer = work()
            check_finite(answer, self.patcher, _ANSWERS[stage])
            return answer

        self._carrying = True
        try:
            rungs = {Rung.FP32: self._compute_in_fp32, Rung.WHOLE: self._load_whole}
            return carry_on(self.patcher, stage, attempt, rungs, given=given)
        finally:
            self._carrying = self._failed_whole = False
            self.vae_dtype = dtype
            self._format.restore()

    def _compute_in_fp32(self, failure: Failure) -> str | None:
        if self.vae_dtype == torch.float32 or is_dynamic(self.patcher):  # which the host casts to its own dtype
            return None
        self._hold(decide(asked_in_fp32(self.patcher, failure), _subject(self)))
        return "fp32"

    def _load_whole(self, failure: Failure) -> str | None:
        """For VAEs with layers that compute only where all weights are: of any, ComfyUI loads a part if it has to."""
        if self.disable_offload or self.patcher.loaded_size() >= self.patcher.model_size():
            return None
        self.disable_offload = True
        unload(self.patcher)
        return "with all of its weights there"

    def _use_cpu_engine(self) -> None:
        """Has work that came to the CPU from another device be done by the CPU's plan, in its format."""
        placement = placement_of(self.patcher)
        if placement is None or self.device != HOST or not placement.carried_over:
            return
        self._hold(decide(placement, _subject(self)))

    def _hold(self, decision: Decision) -> None:
        """Has the work go on as decided, with weights in that format until it ends."""
        self._format.hold(decision.dtype, decision.plan)
        self.vae_dtype = decision.dtype
        apply(decision, self)

    def _decode(self, samples_in: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if self.latent_dim == 2 and samples_in.ndim == 5:
            samples_in = samples_in[:, :, 0]  # a picture of a model that knows of time: newer hosts decode its first

        def whole() -> torch.Tensor:
            return super(PlacedVAE, self).decode(samples_in, *arguments, **options)

        if arguments or options or not self._has_tiles(samples_in.ndim - 2):  # tiles know only of the latent
            stock = super().decode_tiled_1d
            return self._in_one(whole, lambda: stock(samples_in).to(self.output_device).movedim(1, -1))
        ratio = self.spacial_compression_decode()
        frames = samples_in.shape[2] if samples_in.ndim == 5 else None

        def estimate(tile: Tile) -> float:
            shape = (1, samples_in.shape[1], *_frames(tile), tile.side_pixels // ratio, tile.side_pixels // ratio)
            return float(self.memory_used_decode(shape, self.vae_dtype))

        def tiled(tile: Tile) -> torch.Tensor:
            side = tile.side_pixels // ratio
            return self.decode_tiled(samples_in, tile_x=side, tile_y=side, overlap=side // 4, **_in_time(tile))

        tiles = tiles_for(samples_in.shape[-2] * ratio, samples_in.shape[-1] * ratio, frames)
        needed = self.memory_used_decode(samples_in.shape, self.vae_dtype)
        return self._within_memory(whole, tiled, tiles, estimate, needed)

    def _encode(self, pixel_samples: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        def whole() -> torch.Tensor:
            return super(PlacedVAE, self).encode(pixel_samples, *arguments, **options)

        if arguments or options or not self._has_tiles(self.latent_dim) or pixel_samples.ndim != 4:
            stock = super().encode_tiled_1d
            return self._in_one(whole, lambda: stock(self.vae_encode_crop_pixels(pixel_samples).movedim(-1, 1)))
        pictures, height, width, channels = pixel_samples.shape
        shape: tuple[int, ...] = (pictures, channels, height, width)
        frames = None
        if self.latent_dim == 3:
            length = 1 if getattr(self, "not_video", False) else pictures
            shape, frames = (1, channels, length, height, width), self.downscale_ratio[0](length)

        def estimate(tile: Tile) -> float:
            length = () if tile.latent_frames is None else (self.upscale_ratio[0](tile.latent_frames),)
            return float(
                self.memory_used_encode((1, channels, *length, tile.side_pixels, tile.side_pixels), self.vae_dtype)
            )

        def tiled(tile: Tile) -> torch.Tensor:
            side, time = tile.side_pixels, _in_time(tile)
            time = {name: self.upscale_ratio[0](length) for name, length in time.items()}
            return self.encode_tiled(pixel_samples, tile_x=side, tile_y=side, overlap=side // 4, **time)

        needed = self.memory_used_encode(shape, self.vae_dtype)
        return self._within_memory(whole, tiled, tiles_for(height, width, frames), estimate, needed)

    def _has_tiles(self, dimensions: int) -> bool:
        return dimensions in (2, 3) and not self._of_sound()

    def _of_sound(self) -> bool:
        return int(self.output_channels) == 2

    def _in_one(self, whole: Callable[[], torch.Tensor], in_pieces: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The whole, again once the ladder has freed memory; then sound in ComfyUI's own pieces where these fit it."""
        try:
            self._whole = True
            return whole()
        except (RuntimeError, MemoryError) as error:
            failure = Failure.of(error)
        finally:
            self._whole = False
        lasts = self.latent_dim == 1 or getattr(self, "extra_1d_channel", None) is not None
        if failure.kind not in _RETRIED or not self._failed_whole or not (lasts and self._of_sound()):
            self._failed_whole = failure.kind in _RETRIED
            raise failure.error
        try:
            return in_pieces()
        except RuntimeError:  # the pieces' length is not a multiple of what it makes of them
            raise failure.error from None

    def _within_memory(
        self,
        whole: Callable[[], torch.Tensor],
        tiled: Callable[[Tile], torch.Tensor],
        tiles: Sequence[Tile],
        estimate: Callable[[Tile], float],
        needed_bytes: float,
    ) -> torch.Tensor:
        """Does the whole where it fits, else tiles; after each failure for want of memory, smaller tiles."""
        self.last_tiling = None
        self.throw_exception_if_invalid()
        model_management.load_models_gpu(
            [self.patcher], memory_required=needed_bytes, force_full_load=self.disable_offload
        )
        memory = _memory(self.device)
        tile = None
        if not memory.holds(needed_bytes):
            tile = first_that_fits(tiles, estimate, memory)
            self.last_tiling = Tiling(tile, f"because the whole needs about {needed_bytes / GIB:.1f} GiB and {memory}")
        freed = False
        while True:
            try:
                if tile is not None:
                    return tiled(tile)
                self._whole = True
                return whole()
            except (RuntimeError, MemoryError) as error:
                failure = Failure.of(error)
            finally:
                self._whole = False
            smaller = tiles[0] if tile is None else next_smaller(tiles, tile)
            if failure.kind not in _RETRIED:
                raise failure.error
            rung = Rung.TILES if freed else Rung.FREE
            if not freed:
                freed = True
                words = free_others(self.device, [self.patcher])
            elif smaller is None:
                raise failure.error
            else:
                why = f"because {'the whole' if tile is None else tile} ran out of memory"
                tile, self.last_tiling = smaller, Tiling(smaller, why)
                words = str(self.last_tiling)
                model_management.soft_empty_cache()
            report_fault(failure, rung, device=str(self.device), stage="VAE", words=words)

    def decode_tiled_(self, *arguments: Any, **options: Any) -> torch.Tensor:
        self._leave_the_choice_of_tiles()
        return super().decode_tiled_(*arguments, **options)

    def encode_tiled_(self, *arguments: Any, **options: Any) -> torch.Tensor:
        self._leave_the_choice_of_tiles()
        return super().encode_tiled_(*arguments, **options)

    def decode_tiled_1d(self, *arguments: Any, **options: Any) -> torch.Tensor:
        self._leave_the_choice_of_tiles()
        return super().decode_tiled_1d(*arguments, **options)

    def encode_tiled_1d(self, *arguments: Any, **options: Any) -> torch.Tensor:
        self._leave_the_choice_of_tiles()
        return super().encode_tiled_1d(*arguments, **options)

    def decode_tiled_3d(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
        """ComfyUI's, with a progress bar."""
        self._leave_the_choice_of_tiles()
        stock = super().decode_tiled_3d
        with counting(self.first_stage_model, "decode", tiles_of(stock, *arguments, **keywords)):
            return stock(*arguments, **keywords)

    def encode_tiled_3d(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
        """ComfyUI's, with a progress bar."""
        self._leave_the_choice_of_tiles()
        stock = super().encode_tiled_3d
        with counting(self.first_stage_model, "encode", tiles_of(stock, *arguments, **keywords)):
            return stock(*arguments, **keywords)

    def _decode_tiled_owned(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
        """Newer hosts' way for models that lay tiles themselves."""
        self._leave_the_choice_of_tiles()
        return super()._decode_tiled_owned(*arguments, **keywords)

    def _encode_tiled_owned(self, *arguments: Any, **keywords: Any) -> torch.Tensor:
        self._leave_the_choice_of_tiles()
        return super()._encode_tiled_owned(*arguments, **keywords)

    def _leave_the_choice_of_tiles(self) -> None:
        """Ends ComfyUI's own retry after a failure of the whole: its tiles have one size, whatever is free."""
        if self._whole:
            raise torch.OutOfMemoryError("The VAE's whole input did not fit into memory.")


def place_vae(vae: Any, asked: Placement, *, owned: bool = False) -> tuple[Any, Placement]:
    """Places a VAE; `owned` as in `apply`.

    Raises:
        ValueError: the VAE holds no weights.
    """
    check_vae(vae)
    if args.cpu_vae:
        asked = asked.led_by("--cpu-vae", cpu())
    there = clone_for(vae.patcher, asked.device.torch_device)
    decision = decide(asked, dataclasses.replace(_subject(vae), dynamic=is_dynamic(there)))
    # Another pack's kind of VAE keeps its own way with memory.
    placed = PlacedVAE.of(vae) if type(vae) in (comfy.sd.VAE, PlacedVAE) else copy.copy(vae)
    placed.patcher, placed.first_stage_model = there, there.model
    apply(decision, placed, owned=owned or placed.first_stage_model is not vae.first_stage_model)
    return placed, decision.placement


def _subject(vae: Any) -> Subject:
    """Some VAEs of sound compute in fp32 alone."""
    only = getattr(vae, "working_dtypes", None) == [torch.float32]
    return Subject(Kind.VAE, vae.vae_dtype, formats=(torch.float32,) if only else None)


def check_vae(vae: Any) -> None:
    """Refuses a VAE object without weights.

    Raises:
        ValueError: the checkpoint it came from holds no VAE, or ComfyUI has nodes of its own for it.
    """
    if hasattr(vae, "device_manager"):
        raise ValueError(
            f"ComfyUI alone decides where this {type(vae).__name__} runs: connect it to ComfyUI's own nodes."
        )
    if getattr(vae, "first_stage_model", None) is None:
        raise ValueError("The checkpoint holds no VAE: load one with XPU Load VAE and connect that instead.")


def _check_latent(latent: torch.Tensor) -> None:
    if first_not_finite({"latent": latent}) is not None:
        raise ValueError("The latent holds NaN: look at the node before the decoder.")


def _check_picture(picture: torch.Tensor) -> None:
    if first_not_finite({"picture": picture}) is not None:
        raise ValueError("The picture holds NaN: look at the node before the encoder.")


def _frames(tile: Tile) -> tuple[int, ...]:
    return () if tile.latent_frames is None else (tile.latent_frames,)


def _in_time(tile: Tile) -> dict[str, int]:
    """The host's arguments for cutting in time, in latent frames; none for pictures."""
    if tile.latent_frames is None:
        return {}
    return {"tile_t": tile.latent_frames, "overlap_t": max(1, tile.latent_frames // 4)}


def _memory(device: torch.device) -> Memory:
    known = host_inventory().find(str(device))
    limit = None if known is None else known.single_allocation_limit_bytes
    return Memory(model_management.get_free_memory(device), limit)
