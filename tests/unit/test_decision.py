"""What is done to an object, from what was asked for, what the object is, the self-test and the CPU's plan."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from xpu_utils.cpu.plan import CpuPlan
from xpu_utils.decision import AttentionBy, Decision, Kind, Subject, decide, file_format
from xpu_utils.machine.devices import Device, find_devices
from xpu_utils.placement import Placement
from xpu_utils.precision import INT8, PRECISIONS, dtype_of, name_of

from .recorded import b580

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
CPU, XPU = find_devices().devices[-1], b580()
PLAN = CpuPlan("made up", "fp32", True, (), (), (), 1, False, (), {"gemm fp32": 80.0, "gemm bf16": 1.0})
BF16_PLAN = dataclasses.replace(PLAN, precision="bf16", speeds={"gemm fp32": 80.0, "gemm bf16": 200.0})


def not_asked(*_: object) -> None:
    raise AssertionError("this decision needs no measurement")


def on(device: Device, precision: str = "auto", **further: object) -> Placement:
    return Placement(device.id, device, precision, **further)  # type: ignore[arg-type]


def decided(
    asked: Placement, subject: Subject, *, plan: CpuPlan | None = BF16_PLAN, wrong: tuple[str, ...] = ()
) -> Decision:
    return decide(asked, subject, find_plan=lambda: plan, computes=lambda _, name: name not in wrong)


MODEL = Subject(Kind.MODEL, FP16)
STREAMS = dataclasses.replace(MODEL, obstacle="")
ANY_PRECISION = st.sampled_from(PRECISIONS)
ANY_PLAN = st.sampled_from([None, PLAN, BF16_PLAN])
FORMATS = [FP32, FP16, BF16]
ANY_SUBJECT = st.builds(
    Subject,
    kind=st.sampled_from(Kind),
    computes_in=st.sampled_from(FORMATS),
    formats=st.sampled_from([None, (FP32, FP16, BF16), (FP32,)]),
    dynamic=st.booleans(),
).filter(
    lambda subject: (
        subject.computes_in in (subject.formats or FORMATS)
        and (subject.kind not in (Kind.CLIP, Kind.CLIP_VISION) or subject.computes_in == FP32)
    )
)
WRONG = st.lists(st.sampled_from(["bf16", "fp16", "fp32", INT8]), unique=True).map(tuple)


@given(subject=ANY_SUBJECT, precision=ANY_PRECISION, carried_over=st.booleans())
def test_the_reference_has_no_plan_and_needs_no_measurement(
    subject: Subject, precision: str, carried_over: bool
) -> None:
    carried = on(CPU, "fp32", reference=True, carried_over=carried_over)
    for reference in (on(CPU, "fp32"), carried):
        assert decide(reference, subject, find_plan=not_asked, computes=not_asked).plan is None  # type: ignore[arg-type]
    asked = on(XPU, precision, carried_over=carried_over)
    assert decide(asked, subject, find_plan=not_asked, computes=lambda *_: True).plan is None  # type: ignore[arg-type]


@given(
    subject=ANY_SUBJECT,
    device=st.sampled_from([CPU, XPU]),
    precision=ANY_PRECISION,
    carried_over=st.booleans(),
    plan=ANY_PLAN,
    wrong=WRONG,
)
def test_what_is_computed_in_is_what_is_said_and_what_differs_has_its_reason(
    subject: Subject, device: Device, precision: str, carried_over: bool, plan: CpuPlan | None, wrong: tuple[str, ...]
) -> None:
    assume(device == XPU or not subject.dynamic)
    decision = decided(on(device, precision, carried_over=carried_over), subject, plan=plan, wrong=wrong)
    assert decision.placement.precision == (INT8 if decision.in_int8 else name_of(decision.dtype))
    assert decision.placement.device == device
    assert not decision.in_int8 or (subject.kind is Kind.MODEL and INT8 not in wrong and not subject.dynamic)
    assert subject.formats is None or decision.dtype in (*subject.formats, FP32)
    if not carried_over:
        floats = precision in ("auto", INT8) or decision.dtype == dtype_of(precision)
        assert decision.placement.differs == (not floats or (precision == INT8 and not decision.in_int8))


@given(subject=ANY_SUBJECT, device=st.sampled_from([CPU, XPU]), precision=ANY_PRECISION, plan=ANY_PLAN)
def test_deciding_again_for_what_was_decided_changes_nothing(
    subject: Subject, device: Device, precision: str, plan: CpuPlan | None
) -> None:
    assume(device == XPU or not subject.dynamic)
    first = decided(on(device, precision), subject, plan=plan)
    done = dataclasses.replace(subject, computes_in=first.dtype, in_int8=first.in_int8)
    again = decided(dataclasses.replace(first.placement, reason=""), done, plan=plan)
    assert (again.dtype, again.in_int8, again.placement.reason) == (first.dtype, first.in_int8, "")


@given(subject=ANY_SUBJECT, plan=ANY_PLAN, precision=st.sampled_from(["auto", "fp16", "bf16"]))
def test_what_comes_to_the_cpu_never_computes_in_what_that_only_emulates(
    subject: Subject, plan: CpuPlan | None, precision: str
) -> None:
    decision = decided(on(CPU, precision, carried_over=True), subject, plan=plan)
    assert decision.dtype in (FP32, plan.dtype if plan else FP32)
    assert decision.plan is plan
    assert subject.computes_in != FP32 or decision.dtype == FP32, "fp32 stays fp32"


def test_what_goes_on_on_another_accelerator_computes_as_before() -> None:
    assert decided(on(XPU, "fp16", carried_over=True), MODEL).dtype == FP16


@pytest.mark.parametrize(("formats", "dtype"), [((FP32, BF16), BF16), ((FP32, FP16), FP32), (None, BF16)])
def test_what_comes_to_the_cpu_follows_the_plan_where_it_can(
    formats: tuple[torch.dtype, ...] | None, dtype: torch.dtype
) -> None:
    assert decided(on(CPU, carried_over=True), Subject(Kind.UPSCALER, FP16, formats)).dtype == dtype


@pytest.mark.parametrize("device", [CPU, XPU])
def test_what_is_repeated_in_fp32_goes_on_in_fp32_wherever_it_is_carried(device: Device) -> None:
    moved = on(XPU, "fp16").moved(device, "out of memory on xpu:1, continued here")
    again = decided(moved.in_fp32("not finite in fp16, continued in fp32"), MODEL)
    assert (again.dtype, again.placement.precision) == (FP32, "fp32")
    assert again.placement.reason == "out of memory on xpu:1, continued here"
    first = decided(on(XPU, "fp16").in_fp32("not finite in fp16, continued in fp32"), MODEL)
    assert first.placement.reason == "not finite in fp16, continued in fp32"


@pytest.mark.parametrize(("precision", "dtype"), [("auto", BF16), ("bf16", BF16), ("fp32", FP32)])
def test_on_the_cpu_auto_is_the_plan_s_format(precision: str, dtype: torch.dtype) -> None:
    decision = decided(on(CPU, precision), Subject(Kind.MODEL, FP32))
    assert (decision.dtype, decision.placement.reason) == (dtype, "")


@pytest.mark.parametrize("kind", [Kind.MODEL, Kind.VAE, Kind.CLIP, Kind.UPSCALER])
def test_what_the_cpu_only_emulates_is_computed_in_fp32_and_said(kind: Kind) -> None:
    decision = decided(on(CPU, "bf16"), Subject(kind, FP32), plan=PLAN)
    assert (decision.dtype, decision.plan) == (FP32, PLAN)
    assert decision.placement.reason == "this CPU only emulates bf16, computing in fp32"


def test_an_image_encoder_s_reason_is_the_same_on_every_cpu() -> None:
    for plan in (PLAN, BF16_PLAN):
        decision = decided(on(CPU, "bf16"), Subject(Kind.CLIP_VISION, FP32), plan=plan)
        assert decision.placement.reason == "a CLIP vision model computes in fp32 on cpu, not in bf16"


def test_auto_on_the_cpu_leaves_a_format_that_it_only_emulates() -> None:
    decision = decided(on(CPU), MODEL, plan=PLAN)
    assert (decision.dtype, decision.placement.reason) == (FP32, "")


def test_auto_leaves_what_comfyui_chose_unless_the_device_computes_it_wrongly() -> None:
    right, wrong = decided(on(XPU), MODEL), decided(on(XPU), MODEL, wrong=("fp16",))
    assert (right.dtype, right.placement.notes) == (FP16, ())
    assert wrong.dtype == BF16
    assert wrong.placement.notes == ("xpu:0 computes fp16 wrongly (self-test), using bf16",)
    assert not wrong.placement.differs


def test_a_precision_that_was_asked_for_is_taken_untested() -> None:
    decision = decide(on(XPU, "bf16"), MODEL, find_plan=not_asked, computes=not_asked)  # type: ignore[arg-type]
    assert (decision.dtype, decision.placement.reason) == (BF16, "")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Kind.CLIP, "a text encoder computes in fp32 on xpu:0, not in bf16"),
        (Kind.CLIP_VISION, "a CLIP vision model computes in fp32 on xpu:0, not in bf16"),
    ],
)
def test_comfyui_computes_encoders_in_fp32(kind: Kind, reason: str) -> None:
    encoder = Subject(kind, FP32)
    assert decided(on(XPU, "bf16"), encoder).placement.reason == reason
    auto = decide(on(XPU), encoder, find_plan=not_asked, computes=not_asked)  # type: ignore[arg-type]
    assert (auto.dtype, auto.placement.reason) == (FP32, "")


def test_a_text_encoder_follows_the_cpu_s_plan_and_an_image_encoder_does_not() -> None:
    found = [decided(on(CPU), Subject(kind, FP32)).dtype for kind in (Kind.CLIP, Kind.CLIP_VISION)]
    assert found == [BF16, FP32]


@pytest.mark.parametrize(("precision", "differs"), [("auto", False), ("bf16", True)])
def test_an_upscaler_keeps_to_the_formats_that_its_architecture_stands(precision: str, differs: bool) -> None:
    decision = decided(on(CPU, precision), Subject(Kind.UPSCALER, FP32, formats=(FP32, FP16)))
    assert (decision.dtype, decision.placement.differs) == (FP32, differs)


def test_dynamic_vram_keeps_shares_and_a_vae_s_format_and_that_is_said() -> None:
    model = decided(on(XPU, "bf16", resident="45%"), dataclasses.replace(STREAMS, dynamic=True))
    assert (model.dtype, model.placement.reason) == (BF16, "DynamicVRAM decides what stays on xpu:0, not 45%")
    vae = decided(on(XPU, "fp32"), Subject(Kind.VAE, BF16, dynamic=True))
    assert (vae.dtype, vae.placement.reason) == (BF16, "DynamicVRAM keeps a VAE in bf16")


WHOLE = dataclasses.replace(MODEL, obstacle="it is compiled")
INTEGRATED = dataclasses.replace(XPU, integrated=True)
IN_HOST_MEMORY = f"{XPU.id} computes in the host's memory, where its weights already are"
ON_THE_CPU = "the model runs on the CPU, where its weights already are"


@pytest.mark.parametrize(
    ("device", "resident", "subject", "share", "why"),
    [
        (XPU, "45%", STREAMS, 0.45, ""),
        (XPU, "auto", STREAMS, None, ""),
        (XPU, "all", STREAMS, 1.0, ""),
        (XPU, "45%", WHOLE, 0.45, "it is compiled"),
        (INTEGRATED, "45%", STREAMS, 1.0, IN_HOST_MEMORY),
        (INTEGRATED, "auto", STREAMS, 1.0, ""),
        (INTEGRATED, "all", WHOLE, 1.0, ""),
        (CPU, "45%", STREAMS, 1.0, ON_THE_CPU),
        (CPU, "all", STREAMS, 1.0, ""),
    ],
)
def test_weights_stream_as_far_as_they_do_not_stay_and_a_share_that_is_not_followed_is_noted(
    device: Device, resident: str, subject: Subject, share: float | None, why: str
) -> None:
    decision = decided(on(device, resident=resident), subject)
    assert decision.streaming is not None
    assert decision.streaming.share == share
    noted = (f"resident {resident} is not followed: {why}",) if why else ()
    assert decision.placement.notes == noted
    assert bool(decision.streaming.obstacle) == (device == CPU or subject is WHOLE)


def test_dynamic_vram_streams_by_itself_and_a_share_is_told_with_it() -> None:
    dynamic = dataclasses.replace(STREAMS, dynamic=True)
    found = [decided(on(XPU, resident=resident), dynamic).streaming for resident in ("auto", "45%")]
    told = "DynamicVRAM streams the weights by itself"
    assert [each and each.obstacle for each in found] == [told, f"{told}, a share of 45% is not followed"]


def test_on_the_ladder_weights_come_as_they_came_before() -> None:
    again = decided(on(XPU, "fp16", resident="45%").in_fp32("not finite"), MODEL)
    assert again.streaming is None
    assert again.placement.notes == ()


@pytest.mark.parametrize(
    ("device", "plan", "ways"),
    [
        (XPU, BF16_PLAN, {Kind.MODEL: AttentionBy.BUDGET, Kind.VAE: AttentionBy.BUDGET}),
        (CPU, BF16_PLAN, dict.fromkeys((Kind.MODEL, Kind.VAE, Kind.CONTROLNET), AttentionBy.PLAN)),
        (CPU, None, {}),
    ],
)
def test_attention_keeps_to_what_is_free_on_a_device_and_to_the_plan_on_the_cpu(
    device: Device, plan: CpuPlan | None, ways: dict[Kind, AttentionBy]
) -> None:
    found = {kind: decided(on(device), Subject(kind, FP32), plan=plan).attention for kind in Kind}
    assert found == {kind: ways.get(kind, AttentionBy.STOCK) for kind in Kind}


def test_model_calls_are_watched_and_nothing_else() -> None:
    assert [kind for kind in Kind if decided(on(XPU), Subject(kind, FP32)).watch] == [Kind.MODEL]


def test_only_a_model_has_a_resident_share() -> None:
    shares = [decided(on(XPU, resident="45%"), Subject(kind, FP16)).placement.resident for kind in Kind]
    assert shares == ["45%", *["auto"] * 5]


@pytest.mark.parametrize(
    ("device", "precision", "plan", "dtypes"),
    [
        (XPU, "auto", None, [None, None]),
        (XPU, "fp32", None, [FP32, None]),
        (XPU, "fp16", None, [FP16, FP16]),
        (CPU, "auto", BF16_PLAN, [BF16, BF16]),
        (CPU, "auto", PLAN, [None, None]),
        (CPU, "bf16", PLAN, [BF16, BF16]),
    ],
)
def test_weights_are_read_in_what_was_asked_for_and_text_encoders_only_in_small_formats(
    device: Device, precision: str, plan: CpuPlan | None, dtypes: list[torch.dtype | None]
) -> None:
    kinds = (Kind.MODEL, Kind.CLIP)
    assert [file_format(on(device, precision), kind, find_plan=lambda: plan) for kind in kinds] == dtypes
