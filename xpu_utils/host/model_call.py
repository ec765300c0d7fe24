"""One sampling run: its state lives in host memory, and a failing model call is repeated up the ladder.

Three official wrappers of ComfyUI's patcher do this. OUTER_SAMPLE surrounds the run, SAMPLER_SAMPLE takes the
sampler's tensors to the host, and CALC_COND_BATCH takes each model call's tensors to the device and its answers
back. What samplers and guidance do in between happens on the host, on every device alike: one seed, one picture.
"""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import functools
import uuid
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP

from ..checkpoints import first_not_finite
from ..faults import NotFiniteError
from ..ladder import Failure, LadderExhaustedError, Rung, RungAction, climb
from ..placement import AUTO
from ..precision import name_of
from . import cpu_engine
from .attention import BUDGET, OVERRIDE, PlacedAttention, attends_within_budget, smaller_budget_bytes
from .health import placement_of, set_placement
from .moving import on_lost_device, unload
from .recovery import Recovery
from .weights import HOST, keep_host_copy, recover

WRAPPER = "xpu_nodes.model_call"

CONDITION_LISTS = 16
"""Lists of conditions kept on the device between steps."""

STAGE = "sample"

_run: contextvars.ContextVar[SamplingRun | None] = contextvars.ContextVar("xpu_nodes_sampling_run", default=None)


def watch(model: Any) -> None:
    """Puts the wrappers on a placed MODEL (once)."""
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, _outer_sample),
        (WrappersMP.SAMPLER_SAMPLE, _sampler_sample),
        (WrappersMP.CALC_COND_BATCH, _calc_cond_batch),
    ):
        model.remove_wrappers_with_key(kind, WRAPPER)
        model.add_wrapper_with_key(kind, WRAPPER, wrapper)


def _outer_sample(executor: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    run = SamplingRun(executor.class_obj)  # type: ignore[attr-defined]
    token = _run.set(run)
    try:
        return run.sample(lambda: executor(*arguments, **keywords))
    finally:
        _run.reset(token)
        run.restore()


def _sampler_sample(
    executor: Callable[..., Any],
    guider: Any,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: torch.Tensor,
    latent_image: torch.Tensor | None = None,
    denoise_mask: torch.Tensor | None = None,
    *rest: Any,
    **keywords: Any,
) -> Any:
    run = _run.get()
    if run is None or run.guider is not guider:
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *rest, **keywords)
    guider.conds = moved(guider.conds, HOST)
    options = extra_args.get("model_options", {}).get("transformer_options", {})
    if "sample_sigmas" in options:
        options["sample_sigmas"] = sigmas.to(HOST)
    run.sigmas = sigmas.to(HOST)
    on_host = [None if value is None else value.to(HOST) for value in (noise, latent_image, denoise_mask)]
    return executor(guider, run.sigmas, extra_args, callback, *on_host, *rest, **keywords)


def _calc_cond_batch(
    executor: Callable[..., Any], model: Any, conds: list[Any], x: torch.Tensor, timestep: torch.Tensor, options: Any
) -> Any:
    run = _run.get()
    if run is None or run.patcher.model is not model or run.sigmas is None:
        return executor(model, conds, x, timestep, options)
    return run.call(executor, conds, x, timestep, options)


class SamplingRun:
    """The state of one run of a sampler on one model."""

    def __init__(self, guider: Any) -> None:
        self.guider = guider
        self.patcher = guider.model_patcher
        self.sigmas: torch.Tensor | None = None
        """Set when sampling proper has begun; on the host."""
        self._recovery = Recovery(self.patcher, STAGE)
        self._before: tuple[dict[str, Any], bool] | None = None
        """What the run's own dtype replaced: the object patches and whether weights are cast."""
        self._split = False
        self._budget_bytes: int | None = None
        self._conds: dict[int, tuple[Any, Any]] = {}
        """id of a list of conditions -> (the list, its copy on the current device)."""

    # -- the whole run

    def sample(self, attempt: Callable[[], Any]) -> Any:
        """Runs the sampler; failures before its first model call are met here, by starting again."""
        recover(self.patcher)
        keep_host_copy(self.patcher)
        actions: dict[Rung, RungAction] = {
            Rung.FREE: self._free,
            Rung.ACCELERATOR: functools.partial(self._begin_elsewhere, accelerator=True),
            Rung.CPU: functools.partial(self._begin_elsewhere, accelerator=False),
        }

        def start() -> Any:
            self.sigmas = None
            return attempt()

        return climb(
            start, actions, on_failure=self._on_failure, on_rung=self._recovery.on_rung, what="Loading for sampling"
        )

    def restore(self) -> None:
        """After the run, has the model go back to where it was asked to be, unless that device is gone."""
        self._restore_dtype()
        self._recovery.restore()

    def _use_dtype(self, dtype: torch.dtype) -> None:
        """Has the model compute in another dtype until the run ends."""
        if self._before is None:
            self._before = (dict(self.patcher.object_patches), self.patcher.force_cast_weights)
        self.patcher.set_model_compute_dtype(dtype)

    def _restore_dtype(self) -> None:
        if self._before is not None:
            self.patcher.object_patches, self.patcher.force_cast_weights = self._before
            self.patcher.patches_uuid = uuid.uuid4()

    def _begin_elsewhere(self, failure: Failure, *, accelerator: bool) -> str | None:
        if self.sigmas is not None:
            return None  # sampling had begun: its own ladder has tried everything
        return self._move(failure, accelerator=accelerator, reload=False)

    # -- one model call

    def call(
        self, executor: Callable[..., Any], conds: list[Any], x: torch.Tensor, timestep: torch.Tensor, options: Any
    ) -> list[torch.Tensor]:
        """Answers the denoised latents of each condition, on the host."""
        actions: dict[Rung, RungAction] = {
            Rung.FREE: self._free,
            Rung.ATTENTION: self._smaller_attention,
            Rung.SPLIT: functools.partial(self._split_conditions, count=sum(cond is not None for cond in conds)),
            Rung.OFFLOAD: self._offload,
            Rung.FP32: self._compute_in_fp32,
            Rung.ACCELERATOR: functools.partial(self._move, accelerator=True, reload=True),
            Rung.CPU: functools.partial(self._move, accelerator=False, reload=True),
        }
        step = self._step(timestep)

        def attempt() -> list[torch.Tensor]:
            answers = self._on_device(executor, conds, x, timestep, options)
            self._check_finite(answers, x, conds, step)
            return answers

        try:
            return climb(
                attempt,
                actions,
                on_failure=self._on_failure,
                on_rung=functools.partial(self._recovery.on_rung, step=step),
                what=f"Sampling step {step}",
            )
        except LadderExhaustedError:
            if not on_lost_device(self.patcher):
                unload(self.patcher)
            raise

    def _on_device(
        self, executor: Callable[..., Any], conds: list[Any], x: torch.Tensor, timestep: torch.Tensor, options: Any
    ) -> list[torch.Tensor]:
        device = self.patcher.load_device
        model = self.patcher.model
        there = [None if cond is None else self._cond_on(cond, device) for cond in conds]
        options = self._options_on(options, device)
        x, timestep = x.to(device), timestep.to(device)
        if not self._split:
            return [answer.to(HOST) for answer in executor(model, there, x, timestep, options)]
        alone = [
            [cond if index == chosen else None for index, cond in enumerate(there)] for chosen in range(len(there))
        ]
        return [executor(model, only, x, timestep, options)[index].to(HOST) for index, only in enumerate(alone)]

    def _cond_on(self, cond: Any, device: torch.device) -> Any:
        if device == HOST:
            return cond
        if len(self._conds) > CONDITION_LISTS:  # a node makes new lists at every step
            self._conds.clear()
        if id(cond) not in self._conds:
            self._conds[id(cond)] = (cond, moved(cond, device))
        return self._conds[id(cond)][1]

    def _options_on(self, options: Any, device: torch.device) -> Any:
        if device == HOST and self._budget_bytes is None:
            return options
        transformer = dict(options.get("transformer_options", {}))
        if isinstance(transformer.get("sample_sigmas"), torch.Tensor):
            transformer["sample_sigmas"] = transformer["sample_sigmas"].to(device)
        if self._budget_bytes is not None:
            transformer[BUDGET] = self._budget_bytes
        return {**options, "transformer_options": transformer}

    def _step(self, timestep: torch.Tensor) -> int:
        """The sampling step, from 1, whose noise level is the nearest."""
        assert self.sigmas is not None
        return int((self.sigmas - timestep.flatten()[0].to(HOST)).abs().argmin()) + 1

    def _check_finite(self, answers: list[torch.Tensor], x: torch.Tensor, conds: list[Any], step: int) -> None:
        if all(bool(torch.isfinite(answer).all()) for answer in answers):
            return
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"The latent at sampling step {step} holds NaN before the model is called: look upstream.")
        culprit = self._damaged_input(conds)
        if culprit:
            raise ValueError(culprit)
        raise NotFiniteError(f"the model answered NaN or infinity at sampling step {step}")

    def _damaged_input(self, conds: list[Any]) -> str:
        for cond in conds:
            for entry in cond or ():
                context = entry.get("cross_attn")
                if context is not None and first_not_finite({"": context}) is not None:
                    return "The conditioning holds NaN: the text encoder's file is damaged, load another one."
        weight = first_not_finite(self.patcher.model_state_dict())
        if weight:
            unload(self.patcher)
            return f"The model's weights hold NaN ({weight}): its file is damaged, download it again."
        return ""

    # -- rungs

    def _free(self, failure: Failure) -> str | None:
        return self._recovery.free(failure, keep=getattr(self.guider, "loaded_models", []))

    def _dtype(self) -> torch.dtype:
        """What the model computes in."""
        cast = self.patcher.get_model_object("manual_cast_dtype")
        return cast if cast is not None else self.patcher.model_dtype()

    def _smaller_attention(self, failure: Failure) -> str | None:
        if self.patcher.load_device == HOST or not attends_within_budget(self.patcher):
            return None
        self._budget_bytes = smaller_budget_bytes(self.patcher.load_device)
        return f"attention in pieces of {self._budget_bytes / 2**20:.0f} MiB"

    def _split_conditions(self, failure: Failure, *, count: int) -> str | None:
        if self._split or count < 2:
            return None
        self._split = True
        return f"{count} conditions one at a time"

    def _offload(self, failure: Failure) -> str | None:
        if self.patcher.load_device == HOST or self.patcher.loaded_size() == 0:
            return None
        freed = self.patcher.partially_unload(self.patcher.offload_device, self.patcher.loaded_size() // 2)
        model_management.soft_empty_cache()
        share = self.patcher.loaded_size() / max(1, self.patcher.model_size())
        return f"{share:.0%} of the weights resident" if freed else None

    def _compute_in_fp32(self, failure: Failure) -> str | None:
        if self._dtype() == torch.float32:
            return None
        unload(self.patcher)
        self._use_dtype(torch.float32)
        self._load()
        return "the step repeated in fp32"

    def _move(self, failure: Failure, *, accelerator: bool, reload: bool) -> str | None:
        words = self._recovery.move(failure, accelerator=accelerator)
        if words is None:
            return None
        if self.patcher.load_device == HOST:
            self._use_cpu_engine()
        self._move_companions()
        self._conds.clear()
        if reload:
            self._load()
        return words

    def _use_cpu_engine(self) -> None:
        """Has the run go on with what is fast on this CPU; fp16, which is slow on nearly all, in its best format."""
        placement = placement_of(self.patcher)
        assert placement is not None
        plan = cpu_engine.plan_for(dataclasses.replace(placement, precision=AUTO))
        if self._dtype() == torch.float16:
            self._use_dtype(torch.float32 if plan is None else plan.dtype)
        if attends_within_budget(self.patcher):
            self.guider.model_options["transformer_options"][OVERRIDE] = PlacedAttention(plan)
        set_placement(self.patcher, dataclasses.replace(placement, precision=name_of(self._dtype())))

    def _move_companions(self) -> None:
        """ControlNets and the like: those on a lost device come along, and all forget what they keep per device."""
        for companion in getattr(self.guider, "loaded_models", []):
            if recover(companion) or on_lost_device(companion):
                companion.load_device = self.patcher.load_device
        for cond in self.guider.conds.values():
            for entry in cond:
                control = entry.get("control")
                while control is not None:
                    control.cond_hint = None
                    control = control.previous_controlnet

    def _load(self) -> None:
        comfy.samplers.cast_to_load_options(
            self.guider.model_options, device=self.patcher.load_device, dtype=self.patcher.model_dtype()
        )
        model_management.load_models_gpu([self.patcher, *getattr(self.guider, "loaded_models", [])])
        self.patcher.model.current_patcher = self.patcher

    def _on_failure(self, failure: Failure) -> None:
        self._conds.clear()
        self._recovery.on_failure(failure)


def moved(value: Any, device: torch.device) -> Any:
    """A copy of a nest of dicts, lists, tuples and conditions with every tensor on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(entry, device) for key, entry in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(moved(entry, device) for entry in value)
    if hasattr(value, "_copy_with") and hasattr(value, "cond"):  # one of comfy.conds' classes
        there = copy.copy(value)
        there.cond = moved(value.cond, device)
        return there
    return value
