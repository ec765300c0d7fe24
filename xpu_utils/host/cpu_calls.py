"""Single model calls on the CPU, compared: their error against fp32, and their time against OpenVINO's.

`python -m xpu_utils.host.cpu_calls CHECKPOINT FILE --size PIXELS` writes JSON; run with ComfyUI on the import
path. For the UNet layouts of `synthetic`, whose inputs are known.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], torch.Tensor]
Figures = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("json", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = True  # OpenVINO converts torch's fused attention into its own
    importlib.import_module("utils.extra_config")  # as ComfyUI does first: other packages bring a `utils` too
    with torch.inference_mode():
        figures = compare(arguments.checkpoint, arguments.size, arguments.rounds, arguments.threads)
    arguments.json.write_text(json.dumps(figures), encoding="utf-8")


def compare(checkpoint: Path, size: int, rounds: int, threads: int) -> Figures:
    """Name of a way to compute -> its relative error, and its time for one call."""
    figures: Figures = {}
    latent = torch.randn(2, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    context = torch.randn(2, 77, 768, generator=torch.Generator().manual_seed(2))
    reference_model, reference_vae = load(checkpoint, "fp32")
    reference = unet_call(reference_model, latent, context)()
    picture = decode(reference_vae, latent[:1])
    openvino = openvino_call(reference_model, latent, context, threads)
    del reference_model, reference_vae
    stored, _ = load(checkpoint, "bf16", stock=True)
    figures["stock, bf16 weights"] = {"error": relative_error(unet_call(stored, latent, context)(), reference)}
    del stored
    model, vae = load(checkpoint, "auto")
    ours = unet_call(model, latent, context)
    torch.set_num_threads(threads)
    figures["XPU Nodes"] = {
        "error": relative_error(ours(), reference),
        "decode_psnr_db": psnr(decode(vae, latent[:1]), picture),
    }
    if openvino is not None:
        figures["OpenVINO bf16"] = {"error": relative_error(openvino(), reference)}
        for name, times in zip(("XPU Nodes", "OpenVINO bf16"), in_turns([ours, openvino], rounds), strict=True):
            figures[name] |= times
    return figures


def load(checkpoint: Path, precision: str, *, stock: bool = False) -> tuple[Any, Any]:
    """(MODEL, VAE) of a checkpoint, placed on the CPU unless it is to compute as stock does."""
    import comfy.sd

    from ..devices import find_devices
    from ..placement import place
    from . import cpu_engine
    from .placing import place_model, place_vae

    placement = place("cpu", find_devices(), precision=precision)
    dtype = cpu_engine.dtype_for(placement)
    options = {} if dtype is None else {"dtype": dtype}
    model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_clip=False, model_options=options)
    if stock:
        return model, vae
    return place_model(model, placement, owned=True)[0], place_vae(vae, placement, owned=True)[0]


def unet_call(model: Any, latent: torch.Tensor, context: torch.Tensor) -> Call:
    """One call of a MODEL's network, with its patches in force."""
    import comfy.model_management as model_management

    model_management.load_models_gpu([model])
    network, dtype = model.model.diffusion_model, model.get_model_object("manual_cast_dtype") or model.model_dtype()
    times = torch.full((latent.shape[0],), 500.0)
    options = model.model_options["transformer_options"]
    return lambda: network(
        latent.to(dtype), times, context=context.to(dtype), transformer_options=dict(options)
    ).float()


def openvino_call(model: Any, latent: torch.Tensor, context: torch.Tensor, threads: int) -> Call | None:
    """The same network converted to OpenVINO, in bf16; None where OpenVINO is not installed."""
    try:
        import openvino
    except ImportError:
        return None

    network = model.model.diffusion_model.requires_grad_(False)
    inputs = (latent, torch.full((latent.shape[0],), 500.0), context)
    converted = openvino.convert_model(network, example_input=inputs)
    options = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": str(threads)}
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    return lambda: torch.from_numpy(compiled([value.numpy() for value in inputs])[0].copy())


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
