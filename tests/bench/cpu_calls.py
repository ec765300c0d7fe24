"""Single model calls on the CPU, compared: their error against fp32, and their time against OpenVINO's.

`python -m tests.bench.cpu_calls CHECKPOINT FILE --size PIXELS` writes JSON.
With `--work` it writes how much there is to compute instead. For the networks of `synthetic`'s checkpoints.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from . import openvino_pack as openvino
from .comfyui import use_comfyui

Call = Callable[[], torch.Tensor]
Figures = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("json", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", action="store_true", help="count weights and operations")
    arguments = parser.parse_args()
    use_comfyui()
    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = True  # OpenVINO converts torch's fused attention into its own
    with torch.inference_mode():
        if arguments.work:
            answer: Any = work(arguments.checkpoint, arguments.size)
        else:
            answer = compare(arguments.checkpoint, arguments.size, arguments.rounds, arguments.threads)
    arguments.json.write_text(json.dumps(answer), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a network is fed: both halves of the guidance in one batch."""

    latent: torch.Tensor
    times: torch.Tensor
    context: torch.Tensor
    pooled: torch.Tensor | None
    """What some networks take beside the context, as `y`."""

    def named(self, dtype: torch.dtype | None = None, device: str = "cpu") -> dict[str, torch.Tensor]:
        """By the names of the network's parameters."""
        given = {"x": self.latent, "context": self.context, "y": self.pooled}
        tensors = {name: tensor.to(device, dtype) for name, tensor in given.items() if tensor is not None}
        return {**tensors, "timesteps": self.times.to(device)}


def inputs_for(config: Any, size: int) -> Inputs:
    """Random inputs for a network of ComfyUI's model configuration, for square pictures of that many pixels."""
    unet = config.unet_config
    width = unet.get("context_dim") or unet["context_embedder_config"]["params"]["in_features"]
    pooled = unet.get("adm_in_channels")
    side = size // 8
    return Inputs(
        latent=_noise(1, 2, config.latent_format.latent_channels, side, side),
        times=torch.full((2,), 500.0),
        context=_noise(2, 2, 77, width),
        pooled=None if pooled is None else _noise(3, 2, pooled),
    )


def _noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def work(checkpoint: Path, size: int) -> dict[str, float]:
    """Weights in the file, and operations of one step in TFLOP, counted on a network without memory."""
    import comfy.model_detection as model_detection
    from torch.utils.flop_counter import FlopCounterMode

    with safe_open(checkpoint, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
    prefix = "model.diffusion_model."
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = model_detection.model_config_from_unet(tensors, prefix)
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model(tensors, prefix, device=torch.device("meta")).diffusion_model
    with FlopCounterMode(display=False) as counter:
        network(**inputs_for(config, size).named(device="meta"), transformer_options={})
    return {
        "weights": sum(math.prod(shape) for shape in shapes.values()),
        "step_tflop": counter.get_total_flops() / 1e12,
    }


def compare(checkpoint: Path, size: int, rounds: int, threads: int) -> Figures:
    """Name of a way to compute -> its errors, and its time for one call."""
    from xpu_utils.cpu.planning import cpu_plan

    figures: Figures = {}
    reference_model, reference_vae = load(checkpoint, "fp32")
    inputs = inputs_for(reference_model.model.model_config, size)
    latent = inputs.latent[:1]
    reference, picture = unet_call(reference_model, inputs)(), decode(reference_vae, latent)
    by_openvino = openvino_call(reference_model, inputs, threads)
    del reference_model, reference_vae
    stored, stored_vae = load(checkpoint, "bf16", stock=True)
    figures["stock, bf16 weights"] = {"error": relative_error(unet_call(stored, inputs)(), reference)}
    if cpu_plan().computes("bf16"):  # emulated, a decode would take half an hour
        figures["stock, bf16 weights"]["decode_psnr_db"] = psnr(decode(stored_vae, latent), picture)
    del stored, stored_vae
    model, vae = load(checkpoint, "auto")
    ours = unet_call(model, inputs)
    torch.set_num_threads(threads)
    figures["XPU Nodes"] = {
        "error": relative_error(ours(), reference),
        "decode_psnr_db": psnr(decode(vae, latent), picture),
    }
    if by_openvino is not None:
        figures["OpenVINO"] = {"error": relative_error(by_openvino(), reference)}
        for name, times in zip(("XPU Nodes", "OpenVINO"), in_turns([ours, by_openvino], rounds), strict=True):
            figures[name] |= times
    return figures


def load(checkpoint: Path, precision: str, *, stock: bool = False) -> tuple[Any, Any]:
    """(MODEL, VAE) of a checkpoint, placed on the CPU unless it is to compute as stock does."""
    import comfy.sd
    from comfy.cli_args import args

    from xpu_utils.decision import Kind
    from xpu_utils.host.placing.deciding import file_format
    from xpu_utils.host.running.sampling import place_model
    from xpu_utils.host.running.vae import place_vae
    from xpu_utils.machine.devices import find_devices
    from xpu_utils.placement import place

    placement = place("cpu", find_devices(), precision=precision)
    dtype = file_format(placement, Kind.MODEL)
    options = {} if dtype is None else {"dtype": dtype}
    args.bf16_vae = stock and dtype == torch.bfloat16
    model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_clip=False, model_options=options)
    if stock:
        return model, vae
    return place_model(model, placement, owned=True)[0], place_vae(vae, placement, owned=True)[0]


def unet_call(model: Any, inputs: Inputs) -> Call:
    """One call of a MODEL's network, with its patches in force."""
    import comfy.model_management as model_management

    model_management.load_models_gpu([model])
    network, dtype = model.model.diffusion_model, model.get_model_object("manual_cast_dtype") or model.model_dtype()
    options = model.model_options["transformer_options"]
    return lambda: network(**inputs.named(dtype), transformer_options=dict(options)).float()


def openvino_call(model: Any, inputs: Inputs, threads: int) -> Call | None:
    """The same network by OpenVINO; None where that is not installed."""
    if not openvino.installed():
        return None
    torch.set_num_threads(threads)
    program, given = openvino.compiled(model.model.diffusion_model, inputs.named()), inputs.named()
    return lambda: program(given)


def decode(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(vae.decode(latent))


def relative_error(given: torch.Tensor, reference: torch.Tensor) -> float:
    """|given - reference| / |reference|, in the Euclidean norm."""
    return float((given - reference).norm() / reference.norm())


def psnr(given: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in 0..1, in dB."""
    return -10 * math.log10(max(1e-20, float((given - reference).square().mean())))


def in_turns(calls: list[Call], rounds: int) -> list[dict[str, float]]:
    """The shortest time of each call, taken in turns: on the clock, and in CPU seconds of all its threads."""
    best = [{"seconds": math.inf, "cpu_seconds": math.inf} for _ in calls]
    for _ in range(rounds):
        for figures, call in zip(best, calls, strict=True):
            started, used = time.perf_counter(), time.process_time()
            call()
            figures["seconds"] = min(figures["seconds"], time.perf_counter() - started)
            figures["cpu_seconds"] = min(figures["cpu_seconds"], time.process_time() - used)
    return best


if __name__ == "__main__":
    main()
