"""Free memory: which source is believed, why others are not, and what the figure counts."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.__main__ import main
from xpu_utils.machine.devices import Inventory
from xpu_utils.machine.host_memory import HostMemory, read_host_memory
from xpu_utils.memory import free as memory
from xpu_utils.memory.free import KNOWN_ALLOCATION_BYTES, MemoryReader, read_memory
from xpu_utils.memory.listing import as_text
from xpu_utils.telemetry.framework import AllocatorSource, DriverSource
from xpu_utils.telemetry.monitor import ANSWER_SECONDS, Monitor
from xpu_utils.telemetry.readings import FreeMemory, MemoryReading, Unavailable

from .recorded import GIB, b580, lunar_lake, xpu


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Card:
    """torch.xpu of one 12 GiB card, as documented: `mem_get_info` and the allocator's figures."""

    total_bytes = 12 * GIB
    reserved_bytes = 0
    active_bytes = 0
    others_bytes = 0
    fraction = 1.0
    used = True
    """The process has used the device, so that its allocator has figures."""
    shadow = 0.0
    """Bytes of the host's memory that each byte held on the card takes, in no process's account."""
    resident_bytes = 0
    """Of this process in the host's memory."""
    answers: Any = None
    """What `mem_get_info` answers instead of the truth: a pair, or an exception."""

    def mem_get_info(self, _device: int) -> tuple[int, int]:
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers or (self.total_bytes - self.reserved_bytes - self.others_bytes, self.total_bytes)

    def memory_stats_as_nested_dict(self, _device: int) -> dict[str, Any]:
        if not self.used:
            return {}
        figures = {"reserved_bytes": self.reserved_bytes, "active_bytes": self.active_bytes}
        return {name: {"all": {"current": value}} for name, value in figures.items()}

    def memory_reserved(self, _device: int) -> int:
        return self.reserved_bytes

    def get_per_process_memory_fraction(self, _device: int) -> float:
        return self.fraction


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setattr(torch, "xpu", card)
    return card


def sysman(card: Card, *, free_bytes: int | None = None) -> Any:
    """A kind of source that sees the truth, or always the given figure."""

    class Sysman:
        name = "sysman"

        def __init__(self, _device: object) -> None:
            pass

        def memory(self) -> MemoryReading:
            used_bytes = card.reserved_bytes + card.others_bytes if free_bytes is None else 12 * GIB - free_bytes
            return MemoryReading(12 * GIB, used_bytes, sees_others=True)

    return Sysman


def reader(
    card: Card, *others: Any, clock: Clock | None = None, device: Any = None, available_bytes: int = 16 * GIB
) -> MemoryReader:
    """A reader of the card by its driver, the other sources, and its allocator; in a host with so much free."""
    sources = [DriverSource, *others, AllocatorSource]

    def host() -> HostMemory:
        left = available_bytes - card.shadow * card.reserved_bytes
        return HostMemory(available_bytes, int(left) - card.resident_bytes)

    resident = lambda: card.resident_bytes  # noqa: E731
    return MemoryReader(device or b580(), sources=sources, clock=clock or Clock(), host=host, resident_bytes=resident)


def test_the_driver_is_believed_and_cached_bytes_count_as_free(card: Card) -> None:
    card.reserved_bytes, card.active_bytes, card.others_bytes = 3 * GIB, 2 * GIB, 6 * GIB
    read = reader(card, sysman(card)).read()
    assert read == FreeMemory("xpu:0", 4 * GIB, 12 * GIB, 3 * GIB, GIB, 6 * GIB, "torch")


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (RuntimeError("The device doesn't support querying the available free memory.\nmore"), "doesn't support"),
        ((0, 12 * GIB), "answers 0 bytes free"),
        ((13 * GIB, 12 * GIB), f"answers {-GIB} bytes used of"),
        ((0, 0), "answers 0 bytes in total"),
        ((12 * GIB, 12 * GIB), "held here"),
        ((20 * GIB, 24 * GIB), "bytes in total for a device of"),
    ],
)
def test_a_driver_that_cannot_be_right_is_passed_over_with_the_reason(card: Card, answers: Any, why: str) -> None:
    card.reserved_bytes, card.active_bytes, card.others_bytes, card.answers = GIB, GIB, 6 * GIB, answers
    read = reader(card, sysman(card)).read()
    assert (read.free_bytes, read.source) == (5 * GIB, "sysman")
    (distrusted,) = read.distrusted
    assert distrusted.startswith("torch: ")
    assert why in distrusted


def test_a_frozen_driver_is_found_by_our_own_allocation_and_believed_again_when_it_moves(card: Card) -> None:
    clock = Clock()
    card.others_bytes, card.answers = 6 * GIB, (5 * GIB, 12 * GIB)
    looked = reader(card, sysman(card), clock=clock)
    assert looked.read().source == "torch"
    card.reserved_bytes = card.active_bytes = KNOWN_ALLOCATION_BYTES
    clock.now = 1.0
    read = looked.read()
    assert (read.source, read.free_bytes) == ("sysman", 6 * GIB - KNOWN_ALLOCATION_BYTES)
    assert "after allocations" in read.distrusted[0]
    card.reserved_bytes = card.active_bytes = 0
    clock.now = 2.0
    assert looked.read().source == "sysman", "standing where it once was right is no proof"
    card.answers = None
    clock.now = 3.0
    assert looked.read().source == "torch"


def test_small_allocations_do_not_make_a_source_suspect(card: Card) -> None:
    clock = Clock()
    card.answers = (5 * GIB, 12 * GIB)
    looked = reader(card, clock=clock)
    looked.read()
    card.reserved_bytes = KNOWN_ALLOCATION_BYTES - 1
    clock.now = 1.0
    assert looked.read().source == "torch"


def test_a_full_device_is_believed_when_two_sources_say_so(card: Card) -> None:
    card.others_bytes = 12 * GIB
    read = reader(card, sysman(card)).read()
    assert (read.free_bytes, read.source) == (0, "sysman")


def test_the_allocator_alone_keeps_what_others_held_when_they_were_last_seen(card: Card) -> None:
    clock = Clock()
    card.others_bytes = 7 * GIB
    looked = reader(card, clock=clock)
    assert looked.read().free_bytes == 5 * GIB
    card.answers = RuntimeError("gone")
    clock.now = 1.0
    read = looked.read()
    assert (read.free_bytes, read.source) == (5 * GIB, "allocator")


def test_our_own_allocations_show_at_once_and_others_after_a_moment(card: Card) -> None:
    clock = Clock()
    looked = reader(card, clock=clock)
    assert looked.read().free_bytes == 12 * GIB
    card.reserved_bytes = card.active_bytes = 2 * GIB
    card.others_bytes = 5 * GIB
    assert looked.read().free_bytes == 10 * GIB
    clock.now = memory.FRESH_SECONDS
    assert looked.read().free_bytes == 5 * GIB


@pytest.mark.parametrize(("cost_seconds", "pause_seconds"), [(0.001, 0.1), (0.02, 0.4), (0.5, 1.0)])
def test_a_slow_source_is_asked_more_rarely(card: Card, cost_seconds: float, pause_seconds: float) -> None:
    clock, asked = Clock(), []

    class Slow(sysman(card)):  # type: ignore[misc]
        def memory(self) -> MemoryReading:
            asked.append(clock.now)
            clock.now += cost_seconds
            return super().memory()  # type: ignore[no-any-return]

    looked = MemoryReader(b580(), sources=[Slow], clock=clock)
    for _ in range(1000):
        looked.read()
        clock.now += 0.01
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert min(pauses) >= pause_seconds - 1e-9
    assert max(pauses) < pause_seconds + 0.02


def test_an_integrated_gpu_has_no_more_free_than_its_host(card: Card) -> None:
    card.reserved_bytes, card.active_bytes = 3 * GIB, 2 * GIB
    read = reader(card, device=lunar_lake(total_bytes=12 * GIB), available_bytes=2 * GIB).read()
    assert read.free_bytes == 3 * GIB, "2 that the host can give and 1 that is held already"


def test_a_card_whose_memory_takes_as_much_of_the_hosts_is_found_and_has_no_more_free_than_that(card: Card) -> None:
    clock = Clock()
    card.shadow = 1.0
    looked = reader(card, clock=clock, available_bytes=8 * GIB)
    for step in range(3):
        card.reserved_bytes = card.active_bytes = step * GIB
        clock.now += 1.0
        read = looked.read()
    assert read.takes_host_memory
    assert "taken from main memory as well" in str(read)
    assert read.free_bytes == 6 * GIB, "the card itself has 10"
    card.shadow = 0.0  # what was its shadow is free again
    for step in range(3):
        card.reserved_bytes = card.active_bytes = (2 - step) * GIB
        clock.now += 1.0
        read = looked.read()
    assert not read.takes_host_memory
    assert read.free_bytes == 12 * GIB


@pytest.mark.parametrize("shadow", [0.0, 0.5])
def test_memory_that_the_process_itself_takes_is_no_shadow(card: Card, shadow: float) -> None:
    clock = Clock()
    card.shadow = shadow
    looked = reader(card, clock=clock)
    for step in range(4):
        card.reserved_bytes = card.active_bytes = card.resident_bytes = step * GIB
        clock.now += 1.0
        read = looked.read()
    assert not read.takes_host_memory


def test_the_allocators_cap_limits_what_is_free(card: Card) -> None:
    card.fraction, card.reserved_bytes, card.active_bytes = 0.5, GIB, GIB
    assert reader(card).read().free_bytes == 5 * GIB


def test_a_device_that_was_not_used_yet_is_read(card: Card) -> None:
    card.used, card.others_bytes = False, 2 * GIB
    assert reader(card).read().free_bytes == 10 * GIB


def test_without_any_account_there_is_no_figure(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "xpu", SimpleNamespace())
    with pytest.raises(Unavailable, match="memory_stats does not exist"):
        read_memory(b580())


SIZES = st.integers(-1, 20 * GIB)


@given(
    answers=st.one_of(st.tuples(SIZES, SIZES), st.just(RuntimeError("no"))),
    sysman_free=SIZES,
    reserved=st.integers(0, 20 * GIB),
    active_share=st.floats(0, 1),
    total=st.integers(0, 20 * GIB),
    integrated=st.booleans(),
    fraction=st.floats(0, 1),
    available=st.integers(0, 20 * GIB),
)
def test_free_is_never_below_zero_or_above_the_total(
    answers: Any,
    sysman_free: int,
    reserved: int,
    active_share: float,
    total: int,
    integrated: bool,
    fraction: float,
    available: int,
) -> None:
    card = Card()
    card.answers, card.reserved_bytes, card.active_bytes = answers, reserved, int(reserved * active_share)
    card.fraction = fraction
    device = xpu(total_bytes=total, integrated=integrated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "xpu", card)
        try:
            others = sysman(card, free_bytes=sysman_free)
            read = reader(card, others, device=device, available_bytes=available).read()
        except Unavailable:
            assert total == 0, "the allocator answers whenever the total is known"
            return
    assert 0 <= read.free_bytes <= read.total_bytes
    assert 0 <= read.cached_bytes <= reserved


@pytest.mark.parametrize("answers", [(5 * GIB, 12 * GIB), (0, 12 * GIB), RuntimeError("no")])
def test_pages_are_told_the_figure_and_the_source_that_decisions_are_made_from(card: Card, answers: Any) -> None:
    clock = Clock()
    card.others_bytes, card.answers = 6 * GIB, answers
    looked = reader(card, sysman(card), clock=clock)
    shown = Monitor([b580()], lambda _device: looked.read(), sources=[DriverSource])
    looked.read()
    card.reserved_bytes = card.active_bytes = GIB  # what always answers 5 GiB is frozen from here on
    clock.now = 1.0
    decided = looked.read()
    assert (decided.source, decided.free_bytes, decided.others_bytes) == ("sysman", 5 * GIB, 6 * GIB)
    assert shown.sample().devices[0].memory == decided
    assert str(decided) in as_text(Inventory((b580(),), ()), lambda _device: looked.read())


def test_where_nobody_sees_other_programs_their_share_is_unknown(card: Card) -> None:
    card.answers = RuntimeError("no")
    assert reader(card).read().others_bytes is None


def test_while_a_driver_hangs_its_last_answer_is_used_and_then_none(card: Card) -> None:
    clock, hangs, asked = Clock(), threading.Event(), threading.Event()

    class Hanging(sysman(card)):  # type: ignore[misc]
        def memory(self) -> MemoryReading:
            if clock.now:
                asked.set()
                hangs.wait()
            return super().memory()  # type: ignore[no-any-return]

    looked = MemoryReader(b580(), sources=[Hanging], clock=clock)
    assert looked.read().free_bytes == 12 * GIB
    clock.now = 1.0
    waiting = threading.Thread(target=looked.read)
    waiting.start()
    asked.wait()
    try:
        card.reserved_bytes = card.active_bytes = GIB
        assert looked.read().free_bytes == 11 * GIB
        clock.now += ANSWER_SECONDS + 1
        with pytest.raises(Unavailable, match="the driver of xpu:0 has not answered for 6 s"):
            looked.read()
    finally:
        hangs.set()
        waiting.join()


def test_several_threads_read_one_device(card: Card) -> None:
    card.others_bytes = 6 * GIB
    found: set[int] = set()
    looked = reader(card)

    def look() -> None:
        found.update(looked.read().free_bytes for _ in range(50))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {6 * GIB}


def test_the_cpu_is_the_hosts_memory() -> None:
    read = read_memory(xpu(type="cpu", index=None))
    assert read.source == "host"
    assert abs(read.free_bytes - read_host_memory().available_bytes) < GIB


def test_the_report_names_the_source_and_those_passed_over(card: Card) -> None:
    card.answers = RuntimeError("not supported here")
    text = as_text(Inventory(devices=(b580(),), rejected=()), lambda _device: reader(card).read())
    assert "xpu:0: 12.0 of 12.0 GiB free (source allocator), passed over torch: " in text
    assert "not supported here" in text


def test_the_command_shows_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    assert "GiB free (source host)" in capsys.readouterr().out
