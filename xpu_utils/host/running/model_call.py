"""One sampling run: its state lives in host memory, and a failing model call is repeated up the ladder.

Three official wrappers of ComfyUI's patcher do this. OUTER_SAMPLE surrounds the run, SAMPLER_SAMPLE takes the
sampler's tensors to the host, and CALC_COND_BATCH takes each model call's tensors to the device and its answers
back. What samplers and guidance do in between happens on the host, on every device alike: one seed, one picture.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP

from ...calls import Call
from ...cpu.threads import HostThreads
from ...precision import INT8, name_of
from ...recovery.faults import NO_ROOM, NotFiniteError
from ...recovery.ladder import Failure, LadderExhaustedError, Rung, RungAction
from .. import hooks
from ..attention import BUDGET, OVERRIDE, placed_attention, smaller_budget_bytes
from ..inventory import runs_on
from ..placing.apply import apply
from ..placing.deciding import decide, subject_at_work
from ..placing.formats import WorkFormat, compute_dtype
from ..placing.placed import placement_of
from ..recovery.carried import Carried
from ..recovery.patches import Patches
from ..recovery.rungs import Recovery, asked_in_fp32
from ..recovery.weights import recover
from ..streaming import stream_of
from ..target import HOST
from .batching import at_most, conditions_together, one_condition_a_batch
from .companions import Companions
from .conditions import DeviceConditions, count, damaged, keyframes_on_host, moved
from .copies import whole_again
from .cpu_controls import ControlsOnCpu
from .noise import drawn_where_comfyui_does
from .room import Room
from .split import Split

WRAPPER = "xpu_nodes.model_call"
HOOK = hooks.named("model calls")
THREADS_HOOK = hooks.named("threads between steps")

STAGE = "sample"

_PREPARE = ("model", "noise_shape", "conds")
_SAMPLE = ("model_wrap", "sigmas", "extra_args", "callback", "noise", "latent_image", "denoise_mask")
_LATENTS = ("noise", "latent_image", "denoise_mask")
_COND_BATCH = ("model", "conds", "x_in", "timestep", "model_options")
"""The parameters of the host's functions."""

_run: contextvars.ContextVar[SamplingRun | None] = contextvars.ContextVar("xpu_nodes_sampling_run", default=None)


def watch(model: Any) -> None:
    """Puts the wrappers on a placed MODEL (once)."""
    if hooks.switched_off(HOOK):
        return
    hooks.record(HOOK, hooks.State.APPLIED, "a sampling step that fails is repeated, on another device if need be")
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, _outer_sample),
        (WrappersMP.PREPARE_SAMPLING, _prepare_sampling),
        (WrappersMP.SAMPLER_SAMPLE, _sampler_sample),
        (WrappersMP.CALC_COND_BATCH, _calc_cond_batch),
    ):
        if not model.get_wrappers(kind, WRAPPER):
            model.add_wrapper_with_key(kind, WRAPPER, wrapper)


def _outer_sample(executor: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    run = SamplingRun(executor.class_obj)  # type: ignore[attr-defined]
    token = _run.set(run)
    try:
        return run.sample(lambda: executor(*arguments, **keywords))
    finally:
        _run.reset(token)
        run.restore()


def _prepare_sampling(executor: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """ComfyUI loads the model here, and what is sampled with it."""
    call, run = Call(_PREPARE, arguments, keywords), _run.get()
    return call.on(executor) if run is None else run.prepare(executor, call)


def _sampler_sample(executor: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    call, run = Call(_SAMPLE, arguments, keywords), _run.get()
    guider = call.get("model_wrap")
    if run is None or run.guider is not guider:
        return call.on(executor)
    guider.conds = moved(guider.conds, HOST)
    given = call.given()
    run.sigmas = given["sigmas"].to(HOST)
    options = given["extra_args"].get("model_options", {}).get("transformer_options", {})
    if "sample_sigmas" in options:
        options["sample_sigmas"] = run.sigmas
    run.keep_schedule_on_host()
    on_host = {name: given[name].to(HOST) for name in _LATENTS if given.get(name) is not None}
    with run.threads_between_calls(), drawn_where_comfyui_does(run.patcher, len(run.sigmas) - 1):
        return call.changed(sigmas=run.sigmas, **on_host).on(executor)


def _calc_cond_batch(executor: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    call, run = Call(_COND_BATCH, arguments, keywords), _run.get()
    if run is None or run.patcher.model is not call.get("model") or run.sigmas is None:
        return call.on(executor)
    return run.call(executor, call)


class SamplingRun:
    """The state of one run of a sampler on one model."""

    def __init__(self, guider: Any) -> None:
        self.guider = guider
        self.patcher = guider.model_patcher
        self.sigmas: torch.Tensor | None = None
        """Set when sampling proper has begun; on the host."""
        self._recovery = Recovery(self.patcher, STAGE)
        self._format = WorkFormat(self.patcher, self.patcher.model.diffusion_model)
        self._controls = ControlsOnCpu()
        self._one_by_one = False
        """Set by a failure: each condition is a batch of its own."""
        self._split = Split(self.patcher, STAGE)
        self._budget_bytes: int | None = None
        self._room = Room(self.patcher, STAGE)
        self._carried = Carried()
        self._conditions = DeviceConditions()
        self._companions = Companions(guider)
        self._patches = Patches(self.patcher, guider.model_options)
        self._loaded = True
        """False between a rung that has the model loaded anew and the next attempt."""
        self._threads: HostThreads | None = None
        """Set where a run begins on an accelerator."""

    # -- the whole run

    def sample(self, attempt: Callable[[], Any]) -> Any:
        """Runs the sampler; failures before its first model call are met here, by starting again."""

        def start() -> Any:
            whole_again(self.patcher)
            self._settle()
            self._loaded = True  # by ComfyUI, before the first call
            self._format.hold_as_placed()
            self._use_cpu_engine()
            with runs_on(self.patcher.load_device):
                return attempt()

        what, on_failure = "Loading for sampling", self._on_failure_outside_a_call
        return self._recovery.carry_on(start, self._rungs(), on_failure=on_failure, what=what)

    def prepare(self, executor: Callable[..., Any], call: Call) -> Any:
        """Loads as ComfyUI does; where memory ran out in such a run before, by what that one has taught."""
        controls = sum(1 for _ in self._companions.controls())
        need = self._room.begin(call.get("noise_shape"), call.get("conds"), controls)
        if need is not None:
            self._budget_bytes = self._budget_bytes or need.attention_bytes
            self._one_by_one |= need.alone
        with self._room.loading(need):
            return self._recovery.watched(lambda: call.on(executor), "load")

    def _rungs(self) -> dict[Rung, RungAction]:
        return {
            Rung.FREE: self._unload_others,
            Rung.ACCELERATOR: functools.partial(self._go_elsewhere, accelerator=True),
            Rung.CPU: functools.partial(self._go_elsewhere, accelerator=False),
        }

    def _on_failure_outside_a_call(self, failure: Failure) -> Failure:
        """Only what fails before the first model call may start again: the run is never repeated."""
        failure = self._on_failure(failure)
        if self.sigmas is not None:
            raise LadderExhaustedError.after(failure, "Sampling, between two model calls,") from failure.error
        return failure

    def restore(self) -> None:
        """After the run, has the model go back to where it was asked to be, unless that device is gone."""
        self._patches.restore()
        self._controls.restore()
        self._format.restore()
        self._companions.restore()
        self._recovery.restore(self._split.close())

    def threads_between_calls(self) -> contextlib.AbstractContextManager[None]:
        """Surrounds sampling: the host computes on one thread where the model is on an accelerator."""
        if self.patcher.load_device == HOST or hooks.switched_off(THREADS_HOOK):
            return contextlib.nullcontext()
        hooks.record(THREADS_HOOK, hooks.State.APPLIED, "PyTorch computes on one thread while a device does the work")
        self._threads = HostThreads()
        return self._threads.one()

    # -- one model call

    def _threads_within_a_call(self) -> contextlib.AbstractContextManager[None]:
        on_host = self.patcher.load_device == HOST or not self._loaded
        return self._threads.all() if on_host and self._threads is not None else contextlib.nullcontext()

    def call(self, executor: Callable[..., Any], call: Call) -> list[torch.Tensor]:
        """Answers the denoised latents of each condition, on the host."""
        conds, x, timestep = (call.get(name) for name in ("conds", "x_in", "timestep"))
        rungs: dict[Rung, RungAction] = {
            **self._rungs(),
            Rung.ATTENTION: self._smaller_attention,
            Rung.SPLIT: functools.partial(self._split_conditions, count=count(conds)),
            Rung.OFFLOAD: self._offload,
            Rung.FP32: self._compute_in_fp32,
            Rung.ALONG: self._take_along,
        }
        step = self._step(timestep)

        def on_device(call: Call) -> list[torch.Tensor]:
            return self._on_device(executor, call, step)

        def attempt() -> tuple[list[torch.Tensor], Call]:
            with self._threads_within_a_call():
                if not self._loaded:
                    self._recovery.watched(self._load, "load")
                own = self._carried.on(self.patcher.load_device, compute_dtype(self.patcher), call, on_device)
                work = functools.partial(on_device, own)
                answers = self._room.measured(work, attention_bytes=self._budget_bytes, alone=self._one_by_one)
                self._check_finite(answers, x, conds, step)
            return answers, own

        what, watched = f"Sampling step {step}", functools.partial(self._recovery.watched, attempt, x.shape, len(conds))
        work = attempt if self._split.shares(call.get("model_options")) else watched  # shared out, each device is
        answers, own = self._recovery.carry_on(work, rungs, on_failure=self._on_failure, what=what, step=step)
        self._carried.answered(call, own)  # here, where no attempt that was left behind comes
        return answers

    def _on_device(self, executor: Callable[..., Any], call: Call, step: int) -> list[torch.Tensor]:
        device, conds, x = self.patcher.load_device, call.get("conds"), call.get("x_in")
        options = self._split.options(self._options_on(call.get("model_options"), device), step)
        shared = self._split.shares(options)
        given_on = HOST if shared else device  # ComfyUI brings a share to each device
        there = call.changed(
            conds=[self._conditions.on(cond, given_on) for cond in conds],
            x_in=x.to(given_on),
            timestep=call.get("timestep").to(given_on),
            model_options=options,
        )
        keyframes = keyframes_on_host(conds, call.get("timestep"))
        rows = len(x) * self._split.most_in_a_batch(count(conds)) if shared else None
        with self._batching(rows), keyframes, self._patches.where_the_model_is(options, device):
            answers = there.on(executor)
        return [answer.to(HOST) for answer in answers]

    def _batching(self, rows: int | None) -> contextlib.AbstractContextManager[None]:
        if self._one_by_one:
            return one_condition_a_batch(self.patcher.model)
        if stream_of(self.patcher) is not None:
            return conditions_together(self.patcher.model)
        return contextlib.nullcontext() if rows is None else at_most(self.patcher.model, rows)

    def _options_on(self, options: Any, device: torch.device) -> Any:
        given, own = options.get("transformer_options", {}), placed_attention(self.patcher.model_options)
        changes: dict[str, Any] = {}
        if isinstance(given.get("sample_sigmas"), torch.Tensor) and device != HOST:
            changes["sample_sigmas"] = given["sample_sigmas"].to(device)
        if self._budget_bytes is not None:
            changes[BUDGET] = self._budget_bytes
        if own is not None and placed_attention(options) not in (None, own):  # that of the device where the run began
            changes[OVERRIDE] = own
        return {**options, "transformer_options": {**given, **changes}} if changes else options

    def _step(self, timestep: torch.Tensor) -> int:
        """The sampling step, from 1: the last one that begins at this noise level or above."""
        assert self.sigmas is not None
        level = timestep.flatten()[0].to(HOST) * (1 - 1e-5)
        return max(1, int((self.sigmas[:-1] >= level).sum()))

    def _check_finite(self, answers: list[torch.Tensor], x: torch.Tensor, conds: list[Any], step: int) -> None:
        # ComfyUI divides 0 by less than fp16 can hold for a condition that is left out: nobody uses that.
        asked = (answer for answer, cond in zip(answers, conds, strict=True) if cond is not None)
        if all(bool(torch.isfinite(answer).all()) for answer in asked):
            return
        if not bool(torch.isfinite(x).all()):
            raise ValueError(
                f"The latent is NaN before sampling step {step}: look at the node that made it and at its inputs."
            )
        culprit = damaged(conds, self.patcher)
        if culprit:
            raise ValueError(culprit)
        raise NotFiniteError(f"the model answered NaN or infinity at sampling step {step}")

    # -- rungs

    def _unload_others(self, failure: Failure) -> str | None:
        return self._recovery.unload_others(failure, keep=self._companions.loaded())

    def _smaller_attention(self, failure: Failure) -> str | None:
        if self.patcher.load_device == HOST or placed_attention(self.patcher.model_options) is None:
            return None
        self._budget_bytes = smaller_budget_bytes(self.patcher.load_device)
        return f"attention in pieces of {self._budget_bytes / 2**20:.0f} MiB"

    def _split_conditions(self, failure: Failure, *, count: int) -> str | None:
        if self._one_by_one or count < 2:
            return None
        self._one_by_one = True
        return f"{count} conditions one at a time"

    def _offload(self, failure: Failure) -> str | None:
        if self.patcher.load_device == HOST or self.patcher.loaded_size() == 0:
            return None
        freed = self.patcher.partially_unload(self.patcher.offload_device, self.patcher.loaded_size() // 2)
        model_management.soft_empty_cache()
        share = self.patcher.loaded_size() / max(1, self.patcher.model_size())
        return f"{share:.0%} of the weights on the device" if freed else None

    def _compute_in_fp32(self, failure: Failure) -> str | None:
        if compute_dtype(self.patcher) == torch.float32:
            return None
        self._format.begin()
        self._loaded = False
        asked = asked_in_fp32(self.patcher, failure)
        apply(decide(asked, subject_at_work(self.patcher)), self.patcher)
        return "the step repeated in fp32"

    def _take_along(self, failure: Failure) -> str | None:
        device = self.patcher.load_device
        moved = self._patches.move_all(device)
        return f"{moved} things of other nodes moved to {device}" if moved else None

    def _go_elsewhere(self, failure: Failure, *, accelerator: bool) -> str | None:
        others = self._split.leave_out(self.patcher.load_device) if failure.kind in NO_ROOM else None
        if others is not None:
            return others
        self._split.end()
        self._loaded = False  # also where the move fails half way
        return self._recovery.go_elsewhere(failure, accelerator=accelerator)

    def _use_cpu_engine(self) -> None:
        """Has a run on the CPU compute by the plan, where the model was set up for another device.

        Weights in another format than the plan's are held in it for the run where there is room, whatever they were
        set up for: casting them at every use costs more, and keeps them from the faster layers.
        """
        placement = placement_of(self.patcher)
        if placement is None or self.patcher.load_device != HOST:
            return
        computes_in = compute_dtype(self.patcher)
        if not placement.carried_over and placement.precision != INT8:  # another node may have changed it since
            placement = dataclasses.replace(placement, precision=name_of(computes_in))
        decision = decide(placement, subject_at_work(self.patcher))
        held = decision.plan is None or self.patcher.model_dtype() == decision.dtype
        if held and not placement.carried_over:
            return
        self._format.hold_where_room(decision.dtype, decision.plan)
        apply(decision, self.patcher)
        if placement.carried_over and decision.plan is not None:
            for control in self._companions.controls():
                self._controls.use(control)

    def _load(self) -> None:
        """Loads the model and its companions, where it is to go on."""
        self._settle()
        self._use_cpu_engine()
        comfy.samplers.cast_to_load_options(
            self.guider.model_options, device=self.patcher.load_device, dtype=self.patcher.model_dtype()
        )
        model_management.load_models_gpu([self.patcher, *self._companions.loaded()])
        self.patcher.model.current_patcher = self.patcher
        self._companions.prepare()
        self.keep_schedule_on_host()
        self._loaded = True

    def keep_schedule_on_host(self) -> None:
        """Takes the model's noise levels to where the sampler, masks and guidance look them up."""
        self.patcher.model.model_sampling.to(HOST)

    def _settle(self) -> None:
        """Gets what was lost back to the host, ready to load to the model's device."""
        recover(self.patcher)
        self._companions.follow(self.patcher.load_device)
        self._patches.recover(self.patcher.load_device)
        self._conditions.forget()

    def _on_failure(self, failure: Failure) -> Failure:
        if failure.kind not in NO_ROOM:
            self._split.end()
        self._conditions.forget()
        self._patches.take_back()
        failure = self._recovery.on_failure(failure)
        self._room.ran_out(failure)
        return failure
