"""Placement: what a requested device becomes."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.machine.devices import Device, Inventory, Rejection, find_devices
from xpu_utils.machine.profiles import Architecture
from xpu_utils.placement import check_device_name, place

CPU = find_devices().devices[-1]


def xpu(index: int, **changes: object) -> Device:
    return dataclasses.replace(CPU, type="xpu", index=index, architecture=Architecture.BATTLEMAGE, **changes)


def inventory(*devices: Device, rejected: tuple[Rejection, ...] = ()) -> Inventory:
    return Inventory((*devices, CPU), rejected)


def test_auto_takes_the_first_accelerator() -> None:
    assert place("auto", inventory(xpu(0), xpu(1))).device.id == "xpu:0"


TWO = inventory(xpu(1, integrated=False), xpu(0, integrated=True))
"""A card of its own, whose number is the higher one, and an integrated GPU."""


def test_auto_says_why_it_takes_a_card_of_its_own() -> None:
    placement = place("auto", TWO)
    assert placement.device.id == "xpu:1"
    assert placement.notes == ("xpu:1 was taken: it has memory of its own, unlike xpu:0",)
    assert not placement.differs
    assert place("auto", inventory(xpu(1, integrated=False), xpu(2, integrated=False))).notes == ()


@pytest.mark.parametrize("rejected", [(), (Rejection("xpu:7", "it was lost", "restart"),)])
def test_a_fallback_says_why_it_takes_a_card_of_its_own(rejected: tuple[Rejection, ...]) -> None:
    placement = place("xpu:7", dataclasses.replace(TWO, rejected=rejected))
    assert placement.reason.endswith(", using xpu:1 (it has memory of its own, unlike xpu:0)")


def test_an_argument_of_comfyui_leads_auto_and_yields_to_a_node_s_own_choice() -> None:
    led = place("auto", TWO).led_by("--cpu-vae", CPU)
    assert (led.device, led.reason, led.notes) == (CPU, "ComfyUI was started with --cpu-vae", ())
    assert led.led_by("--cpu-vae", CPU) == led
    kept = place("xpu:0", TWO).led_by("--cpu-vae", CPU)
    assert (kept.device.id, kept.reason) == ("xpu:0", "")
    assert kept.notes == ("--cpu-vae is not followed, as xpu:0 was chosen here",)


def test_auto_takes_the_cpu_where_there_is_no_accelerator() -> None:
    placement = place("auto", inventory())
    assert placement.device.id == "cpu"
    assert not placement.differs


def test_a_bare_type_means_its_first_device() -> None:
    assert place("xpu", inventory(xpu(0), xpu(1))).device.id == "xpu:0"


def test_a_device_that_is_there_is_taken_without_a_reason() -> None:
    placement = place("xpu:1", inventory(xpu(0), xpu(1)))
    assert placement.device.id == "xpu:1"
    assert placement.reason == ""


def test_a_missing_device_becomes_the_best_one_and_says_why() -> None:
    rejected = (Rejection("xpu", "no driver", "install one"),)
    placement = place("xpu:3", inventory(rejected=rejected))
    assert placement.device.id == "cpu"
    assert placement.requested == "xpu:3"
    assert placement.reason == "xpu:3 is not on this machine (no driver), using cpu"
    assert "asked for xpu:3" in str(placement)


def test_a_device_that_is_known_and_cannot_be_used_says_why() -> None:
    placement = place("xpu:1", inventory(xpu(0), rejected=(Rejection("xpu:1", "it was lost", "restart"),)))
    assert placement.reason == "xpu:1 cannot be used (it was lost), using xpu:0"


def test_where_nothing_differs_only_device_and_precision_are_told() -> None:
    assert str(place("xpu:1", inventory(xpu(0), xpu(1)), precision="bf16")) == f"xpu:1 ({CPU.name}), bf16"
    assert not place("xpu:1", inventory(xpu(1))).carried_over


@pytest.mark.parametrize("name", ["auto", "cpu", "xpu", "xpu:0", "xpu:12", "cuda:1", "privateuseone"])
def test_device_names_of_every_form_are_accepted(name: str) -> None:
    check_device_name(name)


@pytest.mark.parametrize("name", ["", "XPU:0", "xpu:", "xpu:-1", "xpu:0x1", "a b", "../x", "xpu:0\n", None, 3, ["xpu"]])
def test_anything_else_is_refused_in_one_sentence(name: object) -> None:
    with pytest.raises(ValueError, match=r"is not a device name, use auto, cpu or a name such as xpu:0\.$"):
        check_device_name(name)


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^precision: fp8 is not offered, use one of auto, fp32, bf16, fp16, int8\.$"):
        place("auto", inventory(), precision="fp8")


def test_reasons_add_up_and_auto_is_not_called_a_request() -> None:
    placement = place("auto", inventory(), precision="fp32").because("one thing").because("").because("another")
    assert placement.reason == "one thing; another"
    assert str(placement).endswith("fp32; one thing; another")


def test_a_note_is_no_reason() -> None:
    placement = place("auto", inventory()).noting("in tiles").noting("").noting("no VAE")
    assert (placement.notes, placement.reason, placement.differs) == (("in tiles", "no VAE"), "", False)
    assert "tiles" not in str(placement)


@given(st.text(max_size=40))
def test_no_text_makes_placement_fail_in_another_way(text: str) -> None:
    accepted = re.fullmatch(r"[a-z]{1,16}(:[0-9]{1,3})?", text) is not None
    if accepted:
        assert place(text, inventory(xpu(0))).device.id in ("xpu:0", "cpu")
    else:
        with pytest.raises(ValueError, match="is not a device name"):
            place(text, inventory(xpu(0)))
