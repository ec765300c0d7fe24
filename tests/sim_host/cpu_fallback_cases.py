"""What computes, and in what, when work comes to the CPU from a device that failed; see worker.py.

The plan is made up: fp32, or bf16, channels last, with its own attention, whatever this machine would choose.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import comfy.controlnet
import comfy.sd
import nodes as host_nodes
import torch
from spandrel import ModelLoader

from tests import xpu_sim
from tests.harness.models import MODELS
from tests.harness.synthetic import LAYOUTS, random_weights
from xpu_utils.cpu.attention import AttentionPath
from xpu_utils.cpu.plan import LARGEST, AttentionRule, CpuPlan
from xpu_utils.host import attention, cpu_engine
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.placing.placed import placement_of
from xpu_utils.host.recovery.lost import lose_dead
from xpu_utils.host.recovery.rungs import RAN
from xpu_utils.host.recovery.weights import SOURCE, WeightSource
from xpu_utils.host.running.clip import place_clip
from xpu_utils.host.running.controlnet import place_controlnet
from xpu_utils.host.running.cpu_controls import ControlsOnCpu
from xpu_utils.host.running.sampling import place_model
from xpu_utils.host.running.upscaling import PlacedUpscaler, upscale
from xpu_utils.host.running.vae import place_vae
from xpu_utils.recovery.faults import lost_devices

from .vae_cases import _vae

PLAN = CpuPlan(
    identity="made up",
    precision="fp32",
    channels_last=True,
    onednn_linear=("fp32", "bf16"),
    convolution_as_product=("fp32", "bf16"),
    exact_gelu=("bf16",),
    threads=1,
    keep_freed_memory=False,
    attention=(AttentionRule("fp32", LARGEST, LARGEST, AttentionPath.SOFTMAX),),
    speeds={"gemm fp32": 80.0, "gemm bf16": 1.0},
)
BF16_PLAN = dataclasses.replace(PLAN, precision="bf16", speeds={"gemm fp32": 80.0, "gemm bf16": 200.0})


@contextlib.contextmanager
def _plan(plan: CpuPlan, *networks: torch.nn.Module) -> Iterator[dict[str, Any]]:
    """Computes by a plan in the block, and counts there what the engine does and the formats of convolutions."""
    counts: Counter[str] = Counter()
    stock = (cpu_engine._machine_plan, attention.attend_on_cpu, cpu_engine.fast_upsampling)

    def counted(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **options)

        return call

    def convolved(module: torch.nn.Conv2d, given: Any) -> None:
        if given[0].device.type == "cpu":
            last = module.weight.is_contiguous(memory_format=torch.channels_last)
            counts[f"{str(module.weight.dtype).removeprefix('torch.')}{' last' if last else ''}"] += 1

    hooks = [
        module.register_forward_pre_hook(convolved)
        for network in networks
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    cpu_engine._machine_plan = lambda: plan
    attention.attend_on_cpu = cpu_engine.attend_on_cpu = counted("attention", stock[1])
    cpu_engine.fast_upsampling = counted("upsampling", stock[2])
    try:
        yield counts
    finally:
        cpu_engine._machine_plan, attention.attend_on_cpu, cpu_engine.fast_upsampling = stock
        cpu_engine.attend_on_cpu = stock[1]
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _faults(kind: str, *, times: int | None = None, operator: str = "convolution") -> Iterator[None]:
    simulation = xpu_sim.current()
    simulation.set_faults([xpu_sim.Fault(operator=operator, kind=kind, times=times)])
    try:
        yield
    finally:
        simulation.clear_faults()


def _unchanged(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    """Whether every weight is again what it was, and lies in memory as it did."""
    after = network.state_dict()
    return all(
        torch.equal(after[name].cpu(), tensor) and after[name].stride() == tensor.stride()
        for name, tensor in before.items()
    )


@functools.cache
def _model() -> Any:
    return comfy.sd.load_diffusion_model(str(MODELS / "diffusion_models" / "sd15-tiny-unet.safetensors"))


def _conditioning() -> Any:
    return [[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(2)), {}]]


def _sample(model: Any, positive: Any = None) -> Any:
    sampler = host_nodes.NODE_CLASS_MAPPINGS["KSampler"]()
    negative = _conditioning()
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    return sampler.sample(model, 1, 1, 7.0, "euler", "normal", positive or negative, negative, latent, 1.0)


def case_placed_weights_are_held_in_the_computed_format() -> Any:
    """A stock loader's fp32 weights, placed on the CPU in bf16."""
    model = _model().clone()
    network = model.model.diffusion_model
    before = copy.deepcopy(network.state_dict())
    with _plan(BF16_PLAN, network) as counts:
        placed, placement = place_model(model, placement_for("cpu", "bf16"))
        _sample(placed)
    return {"counts": counts, "precision": placement.precision, "unchanged": _unchanged(network, before)}


def case_an_emulated_precision() -> Any:
    """bf16 asked for on a CPU whose plan says that it is slow."""
    with _plan(PLAN):
        model = place_model(_model(), placement_for("cpu", "bf16"))[1]
        vae = place_vae(_vae("kl"), placement_for("cpu", "bf16"))[1]
        clip = place_clip(_clip(), placement_for("cpu", "bf16"))[1]
        upscaler = PlacedUpscaler.of(_upscaler(), placement_for("cpu", "bf16")).placement
    return {
        name: [placement.precision, placement.reason]
        for name, placement in {"model": model, "vae": vae, "clip": clip, "upscaler": upscaler}.items()
    }


def _upscaler() -> Any:
    weights = random_weights(LAYOUTS["upscaler-2x"][1](), seed=0, dtype=torch.float32)
    return ModelLoader().load_from_state_dict(weights).eval()


@functools.cache
def _clip() -> Any:
    return comfy.sd.load_clip([str(MODELS / "text_encoders" / "clip-l.safetensors")])


def case_auto_upscaler() -> Any:
    """precision=auto on the CPU, of a model that stays another node's."""
    model = _upscaler()
    with _plan(BF16_PLAN):
        placed = PlacedUpscaler.of(model, placement_for("cpu", "auto"))
    weight = placed._model.model.body[0].weight
    return {
        "precision": placed.placement.precision,
        "last": weight.is_contiguous(memory_format=torch.channels_last),
        "others": str(model.dtype),
    }


def case_model_out_of_memory() -> Any:
    """For one run the CPU takes over; the next is on the device again, with the same weights."""
    model = _model().clone()
    placed, _ = place_model(model, placement_for("xpu:0", "fp16"))
    network = model.model.diffusion_model
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with _plan(PLAN, network) as counts, _faults("out_of_resources"):
        _sample(placed)
    ran = placed.get_attachment(RAN)
    return {
        "counts": counts,
        "ran": [ran.device.id, ran.precision],
        "unchanged": _unchanged(network, before),
        "device_after": placement_of(placed).device.id,
    }


def case_threads() -> Any:
    """On a device, then on the CPU, on a host with two threads."""
    placed, _ = place_model(_model().clone(), placement_for("xpu:0", "fp16"))
    within: list[list[Any]] = []
    between: list[int] = []

    def called(module: torch.nn.Module, given: Any) -> None:
        within.append([given[0].device.type, torch.get_num_threads()])

    def guided(given: dict[str, Any]) -> torch.Tensor:
        between.append(torch.get_num_threads())
        return given["denoised"]

    placed.set_model_sampler_post_cfg_function(guided)
    handle = placed.model.diffusion_model.register_forward_pre_hook(called)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _sample(placed)
        with _plan(PLAN), _faults("out_of_resources"):
            _sample(placed)
        return {"within": sorted(set(map(tuple, within))), "between": between, "after": torch.get_num_threads()}
    finally:
        torch.set_num_threads(before)
        handle.remove()


def case_shared_control() -> Any:
    """What a control object casts to after a run in which two conditions share it and the model is loaded twice."""
    control = comfy.controlnet.load_controlnet(str(MODELS / "controlnet" / "controlnet-sd15-tiny.safetensors"))
    control.control_model_wrapped.load_device = torch.device("cpu")
    control.manual_cast_dtype = torch.bfloat16
    controls = ControlsOnCpu()
    with _plan(PLAN):
        for _ in range(4):
            controls.use(control)
        controls.restore()
    return str(control.manual_cast_dtype)


def case_vae_out_of_memory() -> Any:
    vae, _ = place_vae(copy.copy(_vae("kl")), placement_for("xpu:0", "bf16"))
    network = vae.first_stage_model
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with _plan(PLAN, network) as counts, _faults("out_of_resources"):
        vae.decode(torch.zeros(1, 4, 8, 8))
    ran = vae.patcher.get_attachment(RAN)
    return {"counts": counts, "ran": [ran.device.id, ran.precision], "unchanged": _unchanged(network, before)}


def case_upscaler_out_of_memory() -> Any:
    placed = PlacedUpscaler(_upscaler(), placement_for("xpu:0", "fp16"))
    with _plan(BF16_PLAN), _faults("out_of_resources"):
        _, ran = upscale(placed, torch.rand(1, 16, 16, 3), "auto", "auto")
    return {"precision": ran.precision, "weights": str(placed._model.dtype)}


def case_zz_lost() -> Any:
    """Last: the device stays lost. Everything on xpu:0 is the CPU's, in this run and in the next."""
    model, _ = place_model(_remembered(_model().clone()), placement_for("xpu:0", "fp16"))
    path = str(MODELS / "controlnet" / "controlnet-sd15-tiny.safetensors")
    stock = comfy.controlnet.load_controlnet(path)
    _remembered(stock.control_model_wrapped)
    control, _ = place_controlnet(stock, placement_for("xpu:0", "auto"))
    clip, _ = place_clip(_clip(), placement_for("xpu:0", "auto"))
    apply = host_nodes.NODE_CLASS_MAPPINGS["ControlNetApplyAdvanced"]()
    hint = torch.rand(1, 64, 64, 3)
    positive, _ = apply.apply_controlnet(_conditioning(), _conditioning(), control, hint, 0.8, 0.0, 1.0)
    found: dict[str, Any] = {}
    networks = model.model.diffusion_model, control.control_model
    for name in ("first", "next"):
        fault = _faults("device_lost", times=1) if name == "first" else contextlib.nullcontext()
        with _plan(PLAN, networks[0]) as ours, _plan(PLAN, networks[1]) as controls, fault:
            _sample(model, positive)
        found[name] = {"model": ours, "control": controls}
    with _plan(PLAN):
        found["clip"] = str(_weight_while_encoding(clip).dtype)
    lose_dead(RuntimeError("UR_RESULT_ERROR_DEVICE_LOST, said of work on the CPU"))
    return {**found, "lost": sorted(lost_devices())}


def _remembered(patcher: Any) -> Any:
    """The patcher, whose weights can be had again although no file is known."""
    tensors = [*patcher.model.named_parameters(), *patcher.model.named_buffers()]
    kept = {name: tensor.detach().clone() for name, tensor in tensors}
    patcher.set_attachments(SOURCE, WeightSource("a test's copy", lambda: kept))
    return patcher


def _weight_while_encoding(clip: Any) -> torch.Tensor:
    """The weight that a text encoder's first linear layer has when a prompt reaches it."""
    seen: list[torch.Tensor] = []
    layer = next(module for module in clip.cond_stage_model.modules() if isinstance(module, torch.nn.Linear))
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(module.weight))
    try:
        clip.encode_from_tokens(clip.tokenize("a lighthouse"))
    finally:
        hook.remove()
    return seen[-1]
