"""What must hold of a family: the same latent as stock ComfyUI, bit for bit, wherever it runs and whatever fails."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.model_patcher import ModelPatcher

from tests import xpu_sim
from tests.harness.simulated import COMPUTING
from tests.sim_host.cpu_fallback_cases import BF16_PLAN
from xpu_utils.host import cpu_engine
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.memory import apply_free_memory_hook
from xpu_utils.host.recovery.rungs import placement_after
from xpu_utils.host.recovery.weights import remember
from xpu_utils.host.streaming import stream_of
from xpu_utils.host.target import unload
from xpu_utils.streaming.leaves import collect_leaves

from .controls import Controlled
from .handling import HANDLINGS, HOST, Handling
from .subject import Subject
from .words import CHECKS

BF16_MARGIN = 1.25
"""How much further than stock's bf16 ours may be from fp32: both round, in another order."""
BF16_ALONE = 0.04
"""How far from fp32 ours may be where stock cannot compute in bf16."""
CPU_MARGIN = 1e-4
"""How far what ends on the CPU may be from what the card answers: its faster paths add up in another order."""


class Missed(Exception):
    """What does not hold, in a few words."""


@dataclasses.dataclass
class _Run:
    """A subject in this process."""

    subject: Subject
    thing: Any
    stock: torch.Tensor
    """What stock ComfyUI answers on the CPU."""
    on_card: torch.Tensor
    """What it answers on a card: LoRA are computed in another format there, and convolutions of videos otherwise."""
    busiest: tuple[str, int] = ("", 0)
    """The computing operator that a run calls most often on a card, and how often."""

    @property
    def handling(self) -> Handling:
        return HANDLINGS[self.subject.kind]

    def placed(self, device: str, precision: str = "fp32", resident: str = "all") -> Any:
        return self.handling.place(self.thing, placement_for(device, precision, resident))

    def patcher(self, thing: Any) -> Any:
        return self.handling.patcher(thing)

    def must_equal(self, answer: torch.Tensor) -> None:
        if not torch.equal(answer, self.on_card):
            raise Missed(f"differs by {_distance(answer, self.on_card):.1e}")

    def must_be_near(self, answer: torch.Tensor) -> None:
        begun_on_card = _distance(self.on_card, self.stock)
        if _distance(answer, self.stock) > CPU_MARGIN + 2 * begun_on_card:
            raise Missed(f"differs by {_distance(answer, self.stock):.1e}")


def check(subject: Subject) -> dict[str, str]:
    """What of `CHECKS` does not hold, and why; empty texts where it does."""
    apply_free_memory_hook()  # ComfyUI's own figure knows of no other processes, and of no card while it uses the CPU
    found: dict[str, str] = {}
    run: _Run | None = None
    for name in (check for check in CHECKS if subject.streams or check != "once"):
        found[name] = ""
        try:
            if run is None:
                run = _stock(subject)
            else:
                _CHECKS[name](run)
        except Missed as missed:
            found[name] = str(missed)
        except Exception as error:  # noqa: BLE001 - any of them is a finding
            found[name] = f"{type(error).__name__}: {str(error)[:300]}"
        if run is None:
            break
    return found


def _distance(answer: torch.Tensor, other: torch.Tensor) -> float:
    """Relative to the other's size; infinite where the answer is not finite."""
    distance = float((answer.double() - other.double()).norm() / other.double().norm().clamp_min(1e-30))
    return distance if math.isfinite(distance) else math.inf


def _stock(subject: Subject) -> _Run:
    thing, handling = subject.load(), HANDLINGS[subject.kind]
    _remember(subject, thing)
    patched = thing if subject.lora is None else subject.lora(thing)
    answer = subject.work(patched)
    if not torch.isfinite(answer).all():
        raise Missed("stock's answer is not finite, so that it tells nothing")
    if not torch.equal(answer, subject.work(patched)):
        raise Missed("stock does not answer twice the same")
    if subject.lora is not None and torch.equal(answer, subject.work(thing)):
        raise Missed("the LoRA changes nothing")
    if isinstance(thing, Controlled) and torch.equal(answer, subject.work(Controlled(thing.model, None))):
        raise Missed("the ControlNet changes nothing")
    there = handling.stock_on(patched, torch.device("xpu:0"))
    on_card = subject.work(there)
    for patcher in _patchers(subject, there):
        unload(patcher)
    return _Run(subject, patched, answer, on_card)


def _patchers(subject: Subject, thing: Any) -> list[Any]:
    """Of the thing, and of a control beside it, in the order in which `_contents` has their modules."""
    beside = getattr(thing.control, "control_model_wrapped", None) if isinstance(thing, Controlled) else None
    return [patcher for patcher in (HANDLINGS[subject.kind].patcher(thing), beside) if patcher is not None]


def _remember(subject: Subject, thing: Any) -> None:
    """Tells how it is loaded again, as loaders do."""
    for index, patcher in enumerate(_patchers(subject, thing)):
        remember(patcher, subject.name, lambda index=index: _patchers(subject, subject.load())[index].model)


def _on_cpu(run: _Run) -> None:
    if not torch.equal(run.subject.work(run.placed("cpu")), run.stock):
        raise Missed("differs")


def _resident(run: _Run) -> None:
    """Twice, and counts calls in the second: in the first, what a card computes may be tested and timed before."""
    thing = run.placed("xpu:0")
    run.must_equal(run.subject.work(thing))
    xpu_sim.current().reset_statistics()
    answer = run.subject.work(thing)
    card = xpu_sim.current().statistics().devices[0]
    run.busiest = max(((name, card.count(name)) for name in COMPUTING), key=lambda entry: entry[1])
    run.must_equal(answer)


def _streamed(run: _Run) -> None:
    if not run.subject.streams:
        _in_part(run)
        return
    thing = run.placed("xpu:0", resident="10%")
    run.must_equal(run.subject.work(thing))
    if stream_of(run.patcher(thing)) is None:
        raise Missed("nothing streamed")


def _in_part(run: _Run) -> None:
    """On a card with room for a tenth of the weights, of which ComfyUI loads what fits."""
    thing = run.placed("xpu:0")
    patcher, simulation = run.patcher(thing), xpu_sim.current()
    unload(patcher)
    model_management.soft_empty_cache()
    card = simulation.device(0)
    room = model_management.minimum_inference_memory() + patcher.model_size() // 10
    taken = model_management.get_free_memory(torch.device("xpu:0")) - room
    simulation.change_device(0, other_process_bytes=card.other_process_bytes + int(taken))
    try:
        run.must_equal(run.subject.work(thing))
    finally:
        simulation.restore_device(0, card)
    _must_have_ended(run, thing, "xpu:0")


def _must_have_ended(run: _Run, thing: Any, expected: str) -> None:
    ended = placement_after(run.patcher(thing), None).device.id
    if ended != expected:
        raise Missed(f"ended on {ended}, not on {expected}")


def _once(run: _Run) -> None:
    """Counts what is copied from page-locked memory in the last pass of a run, when all is learnt."""
    thing = run.placed("xpu:0", resident="10%")
    run.subject.work(thing)
    model = run.patcher(thing)
    network = model.model.diffusion_model
    copied: list[int] = []

    def before(*_: Any) -> None:
        xpu_sim.current().reset_statistics()

    def after(*_: Any) -> None:
        copies = xpu_sim.current().statistics().copies
        copied.append(sum(copy.bytes for copy in copies if copy.pinned and copy.direction == "host_to_device"))

    handles = [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    try:
        run.subject.work(thing)
    finally:
        for handle in handles:
            handle.remove()
    stream = stream_of(model)
    if stream is None or not copied:
        raise Missed("nothing streamed")
    expected = _pass_bytes(stream, network)
    some = len(stream.resident) < len(stream.lesson.pieces)  # of the layers that a pass uses
    if not some * 1 <= copied[-1] <= 1.01 * expected:
        raise Missed(f"a pass copies {copied[-1]} bytes, not {expected}")


def _pass_bytes(stream: Any, network: torch.nn.Module) -> int:
    """What a pass may copy: a piece for its first use, and again where as much as the ring holds was copied since."""
    leaves = {leaf.name: leaf.size_bytes for leaf in collect_leaves(network, streamable=lambda _: True)}
    sizes = [sum(leaves[name] for name in names) for names in stream.lesson.pieces]
    streamed = [piece for piece in stream.lesson.order if piece not in stream.resident]
    window_bytes = stream.window_bytes - max((sizes[piece] for piece in streamed), default=0)
    total_bytes, since_bytes = 0, dict[int, int]()
    for piece in streamed:
        if since_bytes.get(piece, window_bytes + 1) > window_bytes:
            total_bytes += sizes[piece]
            since_bytes = {other: size + sizes[piece] for other, size in since_bytes.items()}
            since_bytes[piece] = sizes[piece]
    return total_bytes


def _faulty(run: _Run, device: int, kind: str, times: int, *, expected: str) -> None:
    """A fault in the middle of a run on a card; the answer is the same, and the work ended where it is expected."""
    name = f"xpu:{device}"
    operator, calls = run.busiest
    thing = run.placed(name)
    model_management.load_models_gpu([_another(name)])  # as a text encoder is, which is unloaded first
    fault = xpu_sim.Fault(operator=operator, kind=kind, device=device, nth=calls // 2, times=times)
    with _faults(fault):
        answer = run.subject.work(thing)
        (fired,) = xpu_sim.current().statistics().faults_fired
    if fired != times and expected:
        ended = placement_after(run.patcher(thing), None).device.id
        raise Missed(f"the fault came {fired} times in {calls} calls of {operator}, and the work ended on {ended}")
    anew = kind == "device_lost" and run.subject.keeps
    if expected == "cpu" or anew or (not expected and run.subject.kind == "VAE"):  # by its own plan, or in tiles
        run.must_be_near(answer)
    else:
        run.must_equal(answer)
    if expected:
        _must_have_ended(run, thing, expected)


def _thrice(run: _Run) -> None:
    """What does not stream has fewer ways than three to go on on the same card."""
    _faulty(run, 0, "out_of_memory", 3, expected="xpu:0" if run.subject.streams else "")


def _another(device: str) -> Any:
    """A model of a few bytes that loads to a device."""
    return ModelPatcher(torch.nn.Linear(8, 8), load_device=torch.device(device), offload_device=HOST)


@contextlib.contextmanager
def _faults(*faults: xpu_sim.Fault) -> Iterator[None]:
    xpu_sim.current().set_faults(faults)
    try:
        yield
    finally:
        xpu_sim.current().clear_faults()


def _bf16(run: _Run) -> None:
    """On weights of its own: some families round what they keep beside them for good."""
    subject = run.subject
    own = subject.load() if subject.lora is None else subject.lora(subject.load())
    try:
        rounded = subject.rounded or functools.partial(run.handling.stock_in, own)
        stock = _distance(subject.work(rounded(torch.bfloat16)), run.stock)
    except (RuntimeError, NotImplementedError):  # stock cannot, so that we have to compute in another
        stock = BF16_ALONE
    with _plan(BF16_PLAN):
        ours = _distance(subject.work(run.handling.place(own, placement_for("cpu", "bf16"))), run.stock)
    if ours > BF16_MARGIN * stock:
        raise Missed(f"{ours:.1e} from fp32, stock's {stock:.1e}")


@contextlib.contextmanager
def _plan(plan: Any) -> Iterator[None]:
    """Has the CPU compute by a plan in the block, instead of by one that takes a while to measure."""
    stock = cpu_engine._machine_plan
    cpu_engine._machine_plan = lambda: plan
    try:
        yield
    finally:
        cpu_engine._machine_plan = stock


_CHECKS: dict[str, Callable[[_Run], None]] = {
    "cpu": _on_cpu,
    "resident": _resident,
    "streamed": _streamed,
    "once": _once,
    "memory once": lambda run: _faulty(run, 0, "out_of_memory", 1, expected="xpu:0"),
    "memory thrice": _thrice,
    "bf16": _bf16,
    "lost, card": lambda run: _faulty(run, 0, "device_lost", 1, expected="xpu:1"),
    "lost, CPU": lambda run: _faulty(run, 1, "device_lost", 1, expected="cpu"),
}
