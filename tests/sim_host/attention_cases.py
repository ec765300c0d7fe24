"""Peak memory of attention under a 1 GiB limit, ours and the host's, on a simulated device; see worker.py."""

from __future__ import annotations

import functools
import importlib
import time
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.model_management as model_management
import torch
from comfy.ldm.modules.diffusionmodules.model import vae_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from tests import xpu_sim
from xpu_utils.calls import StandIn
from xpu_utils.decision import AttentionBy
from xpu_utils.host import attention, hooks, neighbours
from xpu_utils.host.attention import BUDGET, MEASURED_BUDGET, OVERRIDE, WHOLE, PlacedAttention, device_budget
from xpu_utils.memory.attention import SMALLEST_BYTES, AttentionBudget, attend_in_chunks, chunks_for
from xpu_utils.selftest.attention import Attending, AttentionTimes
from xpu_utils.selftest.result import SelfTests

DEVICE, OTHER = torch.device("xpu:0"), torch.device("xpu:1")
DIM = 40
"""Stable Diffusion 1.5's: no fused kernel has it."""
HEADS = 5
"""With 8192 tokens their scores take 1.25 GiB in fp32, more than the 1 GiB that the device grants at once."""


def _peak(call: Any) -> dict[str, Any]:
    """Calls, and tells the most memory that was allocated beyond what was there before, or the error."""
    torch.xpu.empty_cache()
    before = torch.xpu.memory_stats(DEVICE)["allocated_bytes.all.current"]
    torch.xpu.reset_peak_memory_stats(DEVICE)
    try:
        result = call()
    except torch.OutOfMemoryError as error:
        return {"error": str(error).splitlines()[0]}
    peak = torch.xpu.memory_stats(DEVICE)["allocated_bytes.all.peak"] - before
    return {"peak_bytes": peak, "result": result}


def _tensors(tokens: int, heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shape = (1, tokens, heads * DIM)
    return [torch.randn(shape, generator=generator).to(DEVICE) for _ in range(3)]


def _ours() -> dict[str, Any]:
    """The options of a model call on the device as it is now, whose kernels are not fused."""
    budget = device_budget(DEVICE)
    return {OVERRIDE: PlacedAttention(None), BUDGET: budget.temporary_bytes}


def case_peaks() -> Any:
    """Real calls: fp32, no mask."""
    found = {}
    for tokens in (2048, 4096, 8192):
        q, k, v = _tensors(tokens, HEADS)
        attend = functools.partial(host_attention.attention_pytorch, q, k, v, HEADS)
        stock, ours = _peak(attend), _peak(functools.partial(attend, transformer_options=_ours()))
        entry = {"heads": HEADS, "budget_bytes": device_budget(DEVICE).temporary_bytes}
        if "result" in stock:
            entry["largest_difference"] = float((stock.pop("result") - ours["result"]).abs().max())
        entry["finite"] = bool(torch.isfinite(ours.pop("result")).all())
        found[tokens] = {**entry, "stock": stock, "ours": ours}
    return found


def case_pictures() -> Any:
    """The tokens of pictures of 4096 and 8192 pixels a side, 16 pixels a token: shapes only, on the meta device.

    The peak is that of the largest piece, counted operation by operation: what torch's unfused attention allocates
    and frees in order.
    """
    found = {}
    limit = xpu_sim.current().devices[0].max_allocation_bytes
    for side in (4096, 8192):
        tokens, heads = (side // 16) ** 2, 24
        q = torch.empty(1, heads, tokens, DIM, dtype=torch.bfloat16, device="meta")
        budget = device_budget(DEVICE).temporary_bytes
        chunks = chunks_for(q.shape, q.shape, budget)
        assert chunks is not None
        calls = []

        def count(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, calls: list[int] = calls) -> Any:
            calls.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * 4)
            return torch.empty_like(q)

        attend_in_chunks(count, q, q, q, None, chunks)
        found[side] = {
            "tokens": tokens,
            "heads": heads,
            "budget_bytes": budget,
            "limit_bytes": limit,
            "stock_scores_bytes": heads * tokens * tokens * 4,
            "largest_scores_bytes": max(calls),
            "calls": len(calls),
        }
    return found


def case_vae_block() -> Any:
    """The attention of a VAE's middle block over 64x64 latent pixels: one head of dim 512, never fused."""
    q, k, v = (torch.randn(1, 512, 64, 64).to(DEVICE, torch.bfloat16) for _ in range(3))
    total_bytes = xpu_sim.current().devices[0].total_bytes
    xpu_sim.current().change_device(0, total_bytes=256 << 20)
    stock = vae_attention()
    entry = {"budget_bytes": device_budget(DEVICE).temporary_bytes}
    theirs, ours = _peak(lambda: stock(q, k, v)), _peak(lambda: StandIn(stock, attention._attend_to_pixels)(q, k, v))
    xpu_sim.current().change_device(0, total_bytes=total_bytes)
    entry["largest_difference"] = float((theirs.pop("result") - ours.pop("result")).abs().max())
    return {**entry, "stock": theirs, "ours": ours}


def case_one_piece() -> Any:
    """Where the scores fit a function is called once, with its own arguments; a budget set after a failure cuts."""
    calls = []

    def spy(*arguments: Any, **options: Any) -> Any:
        calls.append((arguments, sorted(options)))
        return host_attention.attention_pytorch(*arguments, **options)

    override, (q, k, v) = PlacedAttention(None), _tensors(256, HEADS)
    options = {MEASURED_BUDGET: device_budget(DEVICE)}
    override(spy, q, k, v, HEADS, attn_precision=None, transformer_options=options)
    same = calls[0][0][0] is q and calls[0][0][3] == HEADS
    once = len(calls)
    override(spy, q, k, v, HEADS, transformer_options={BUDGET: 1 << 20})
    return {"same": same, "once": once, "pieces": len(calls) - once, "options": calls[0][1]}


def case_wrong_head_dim() -> Any:
    """The largest differences from the processor where a device's own attention is wrong, at a head dim not met yet."""
    simulation, (q, k, v) = xpu_sim.current(), [t[:, :512, :160].to(OTHER) for t in _tensors(4096, HEADS)]
    heads = 1
    expected = host_attention.attention_pytorch(q.cpu(), k.cpu(), v.cpu(), heads)
    simulation.add_fault("*scaled_dot_product*", "wrong_result", times=None)
    ours = {OVERRIDE: PlacedAttention(None)}
    try:
        answers = {
            what: host_attention.attention_pytorch(q, k, v, heads, transformer_options=options)
            for what, options in (("stock", {}), ("whole", ours), ("pieces", {**ours, BUDGET: 1 << 20}))
        }
    finally:
        simulation.clear_faults()
    return {what: float((answer.cpu() - expected).abs().max()) for what, answer in answers.items()}


def case_kinds_of_calls() -> Any:
    """How often it is asked how to attend, in a model call's attention calls one after the other."""
    asked: list[int] = []
    stock, attention.attends_by = attention.attends_by, lambda *_, **__: asked.append(1) or Attending.OWN
    measured = {OVERRIDE: PlacedAttention(None), MEASURED_BUDGET: device_budget(DEVICE), WHOLE: set()}
    tight = {**measured, MEASURED_BUDGET: AttentionBudget(1 << 20), WHOLE: set()}
    try:
        found = []
        for tokens, options in ((256, measured), (256, measured), (128, measured), (1024, tight), (1024, tight)):
            host_attention.attention_pytorch(*_tensors(tokens, HEADS), HEADS, transformer_options=options)
            found.append(len(asked))
        return found
    finally:
        attention.attends_by = stock


def case_by_products() -> Any:
    """Where products measured faster: the device's own calls and the largest error, whole and in pieces."""
    heads, tokens = 8, 1024
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, tokens, heads * 64, generator=generator).to(OTHER, torch.bfloat16) for _ in range(3))
    expected = host_attention.attention_pytorch(*(t.cpu().float() for t in (q, k, v)), heads)
    seconds = {Attending.OWN: 1.0, Attending.PRODUCTS: 0.1}
    tests = SelfTests(measure=lambda _device, shapes, *_: AttentionTimes(shapes, seconds))
    stock, attention.attends_by = attention.attends_by, tests.attends_by
    found = {}
    try:
        for what, options in (("fp32", {}), ("pieces", {BUDGET: 1 << 20}), ("whole", {})):
            precision = torch.float32 if what == "fp32" else None
            xpu_sim.current().reset_statistics()
            ours = {OVERRIDE: PlacedAttention(None), **options}
            answer = host_attention.attention_pytorch(
                q, k, v, heads, attn_precision=precision, transformer_options=ours
            )
            own = xpu_sim.current().statistics().devices[1].count("scaled_dot_product_attention")
            found[what] = {"own": own, "error": float((answer.cpu().float() - expected).abs().max() / expected.max())}
        return found
    finally:
        attention.attends_by = stock


def case_functions_that_limit_themselves() -> Any:
    """How often one of the host's is called for a call over the budget: as measured, and as set after a failure."""
    (q, k, v), calls = _tensors(1024, HEADS), []
    stock = host_attention.attention_split

    def spy(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return stock.__wrapped__(*arguments, **options)

    host_attention.attention_split = spy
    attention._limit_themselves.cache_clear()
    try:
        found = {}
        for key, budget in ((MEASURED_BUDGET, AttentionBudget(1 << 20)), (BUDGET, 1 << 20)):
            calls.clear()
            PlacedAttention(None)(spy, q, k, v, HEADS, transformer_options={key: budget})
            found[key] = len(calls)
        return {"measured": found[MEASURED_BUDGET], "set": found[BUDGET]}
    finally:
        host_attention.attention_split = stock
        attention._limit_themselves.cache_clear()


def case_overhead() -> Any:
    """Processor time of the override itself where one piece suffices: what it adds to each of the host's calls."""
    q = torch.empty(1, 256, HEADS * DIM, device=DEVICE)
    options = {MEASURED_BUDGET: device_budget(DEVICE)}
    override, calls = PlacedAttention(None), 2000

    def nothing(*arguments: Any, **given: Any) -> None:
        pass

    started = time.thread_time()
    for _ in range(calls):
        override(nothing, q, q, q, HEADS, attn_precision=None, transformer_options=options)
    return {"microseconds_per_call": (time.thread_time() - started) / calls * 1e6}


def case_measured_once_a_call() -> Any:
    """Free memory is asked for once a model call, not once an attention call; the ladder's bytes come first."""
    asked = []
    real = model_management.get_free_memory

    def spy(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return real(*arguments, **options)

    q, k, v = _tensors(256, HEADS)
    model_management.get_free_memory = spy
    try:

        def model_call(x: Any, timestep: Any, concat: Any, context: Any, control: Any, options: Any) -> int:
            before = len(asked)
            for _ in range(7):
                PlacedAttention(None)(host_attention.attention_pytorch, q, k, v, HEADS, transformer_options=options)
            return len(asked) - before

        within = attention._with_budget(model_call, q, None, None, None, None, {})
        return {"asked": len(asked), "within": within}
    finally:
        model_management.get_free_memory = real


def case_override() -> Any:
    """Whose attention a model has after it was placed."""
    patcher = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    attention.use_attention(patcher, AttentionBy.STOCK, None)
    untouched = OVERRIDE not in patcher.model_options["transformer_options"]
    for _ in range(2):
        attention.use_attention(patcher, AttentionBy.BUDGET, None)
    wrappers = len(patcher.get_wrappers(WrappersMP.APPLY_MODEL, attention.HOOK))
    ours = attention.placed_attention(patcher.model_options) is not None
    applied = {hook.name: str(hook) for hook in hooks.hooks()}[attention.HOOK]
    theirs = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    theirs.model_options["transformer_options"][OVERRIDE] = print
    attention.use_attention(theirs, AttentionBy.BUDGET, None)
    return {
        "untouched_reference": untouched,
        "ours": ours,
        "wrappers": wrappers,
        "applied": applied,
        "kept_theirs": theirs.model_options["transformer_options"][OVERRIDE] is print,
        "stood_down": {hook.name: str(hook) for hook in hooks.hooks()}[attention.HOOK],
    }


def case_beside_omnixpu() -> Any:
    """Our attention with theirs in the host's place, loaded before and after a model was placed; runs last."""

    def attend(options: Any, *tensors: torch.Tensor, heads: int = HEADS) -> Any:
        return host_attention.optimized_attention(*tensors, heads, transformer_options=dict(options))

    def under_a_budget(options: Any) -> int:
        xpu_sim.current().reset_statistics()
        attend({**options, BUDGET: SMALLEST_BYTES}, *_tensors(2048, HEADS))
        return xpu_sim.current().statistics().devices[0].count("scaled_dot_product_attention")

    before = _placed_options()
    stock = under_a_budget(before)
    omnixpu = importlib.import_module("tests.neighbours.omnixpu")
    after = _placed_options()
    found = {"stock": stock, "theirs": [under_a_budget(options) for options in (before, after)]}
    tensors = _tensors(4096, HEADS)
    peaks = [
        _peak(lambda options=options: attend(options, *tensors)) for options in (after, {**after, BUDGET: 32 << 20})
    ]
    found["peaks"] = [peak["peak_bytes"] for peak in peaks]
    wide = torch.empty(1, 1024, 4 * 128, dtype=torch.bfloat16, device=DEVICE)
    measured = {**after, MEASURED_BUDGET: AttentionBudget(1 << 20)}
    attend(measured, wide, wide, wide, heads=4)
    found["whole"] = [list(shape) for shape in omnixpu.kernel_calls]
    omnixpu.kernel_calls.clear()
    pair = wide.expand(2, -1, -1)
    attend(measured, pair, pair, pair, heads=4)
    found["pieces"] = [list(shape) for shape in omnixpu.kernel_calls]
    found["present"] = [name for name, _ in neighbours.present()]
    return found


def _placed_options() -> Any:
    """The transformer options of a model that was placed."""
    patcher = ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    attention.use_attention(patcher, AttentionBy.BUDGET, None)
    return patcher.model_options["transformer_options"]
