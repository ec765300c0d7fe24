"""Where streamed weights lie in the ring, and which weights stay on the device."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.streaming.plan import (
    RING_BYTES,
    PieceCost,
    RingPlan,
    choose_resident,
    plan_ring,
    ring_size,
)

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=30)
COSTS = st.lists(st.builds(PieceCost, st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=30)


def order_of_copies(plan: RingPlan, count: int, passes: int) -> list[tuple[int, int]]:
    """(position, uses before it) of every copy, as the stream issues them."""
    copies = [(position, 0) for position in range(plan.primed)]
    for used in range(passes * count):
        copies += [(position, used + 1) for position in plan.unlocks[used % count]]
    return copies


@given(SIZES)
def test_every_pass_copies_every_piece_once_in_order_of_use(sizes: list[int]) -> None:
    plan = plan_ring(sizes, 100)
    positions = [position for position, _ in order_of_copies(plan, len(sizes), 3)]
    expected = [*range(len(sizes))] * 5
    assert positions == expected[: len(positions)]
    assert len(positions) >= 3 * len(sizes)


@given(SIZES)
def test_a_copy_never_lands_on_a_piece_that_is_still_needed(sizes: list[int]) -> None:
    plan = plan_ring(sizes, 100)
    count = len(sizes)
    for number, (position, uses) in enumerate(order_of_copies(plan, count, 3)):
        start, stop = plan.offsets[position], plan.offsets[position] + sizes[position]
        assert stop <= 100
        for needed in range(uses, number):  # copied before this one and not used yet
            other = needed % count
            assert plan.offsets[other] + sizes[other] <= start or plan.offsets[other] >= stop


@given(SIZES)
def test_a_piece_is_copied_before_it_is_used(sizes: list[int]) -> None:
    plan = plan_ring(sizes, 100)
    for number, (_, uses) in enumerate(order_of_copies(plan, len(sizes), 3)):
        assert number >= uses


@pytest.mark.parametrize(
    ("sizes", "available_bytes", "expected_bytes"),
    [
        ([30 << 20] * 200, float("inf"), RING_BYTES),
        ([30 << 20] * 200, 200 << 20, 100 << 20),
        ([30 << 20] * 200, 100 << 20, 60 << 20),
        ([1 << 20] * 80, float("inf"), 10 << 20),
        ([10 << 20, 100 << 20, 10 << 20], 100 << 20, 200 << 20),
    ],
    ids=["enough", "little", "less than two leaves need", "a small model", "one large leaf"],
)
def test_the_ring_suits_the_device_and_the_model(sizes: list[int], available_bytes: float, expected_bytes: int) -> None:
    assert ring_size(sizes, available_bytes) == expected_bytes


def test_a_piece_larger_than_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit in 100 bytes"):
        plan_ring([101], 100)


@given(COSTS, st.floats(0, 1))
def test_the_resident_part_stays_within_its_budget(costs: list[PieceCost], share: float) -> None:
    budget = int(share * sum(cost.size_bytes for cost in costs))
    resident = choose_resident(costs, resident_bytes=budget, ring_bytes=60)
    assert sum(costs[index].size_bytes for index in resident) <= budget


@given(COSTS, st.integers(0, 200))
def test_what_would_still_fit_is_resident(costs: list[PieceCost], budget: int) -> None:
    resident = choose_resident(costs, resident_bytes=budget, ring_bytes=60)
    spare = budget - sum(costs[index].size_bytes for index in resident)
    assert all(cost.size_bytes > spare for index, cost in enumerate(costs) if index not in resident)


def test_pieces_that_must_stay_do() -> None:
    costs = [PieceCost(10, 1.0)] * 10
    assert choose_resident(costs, resident_bytes=30, ring_bytes=30, always=[4, 7]) >= {4, 7}


def test_a_small_part_streams_in_few_large_copies() -> None:
    costs = [PieceCost(size, 1.0) for size in (20, 1, 2, 20, 3, 1) * 10]
    resident = choose_resident(costs, resident_bytes=370, ring_bytes=60)
    assert [costs[index].size_bytes for index in range(60) if index not in resident] == [20] * 5


def predict_seconds(
    costs: Sequence[PieceCost], resident: Collection[int], *, ring_bytes: int, link_bytes_per_s: float
) -> float:
    """Seconds of one pass in the steady state, were copies and compute never to slow each other down."""
    order = [index for index in range(len(costs)) if index not in resident]
    plan = plan_ring([costs[index].size_bytes for index in order], ring_bytes)
    position_of = {index: position for position, index in enumerate(order)}
    ready = [0.0] * len(order)
    link_free = now = 0.0
    for primed in range(plan.primed):
        link_free += costs[order[primed]].size_bytes / link_bytes_per_s
        ready[primed] = link_free
    began = 0.0
    for _ in range(3):
        began = now
        for index, cost in enumerate(costs):
            position = position_of.get(index)
            if position is not None:
                now = max(now, ready[position])
            now += cost.seconds
            for following in plan.unlocks[position] if position is not None else ():
                link_free = max(link_free, now) + costs[order[following]].size_bytes / link_bytes_per_s
                ready[following] = link_free
    return now - began


def test_copies_hide_behind_dense_compute() -> None:
    """Half the time is spent in pieces that are light and slow, as in a UNet's upper levels: those are streamed."""
    heavy, dense = [PieceCost(30, 0.5)] * 20, [PieceCost(5, 2.5)] * 4
    costs = [*dense, *heavy, *dense]
    link, ring = 40.0, 60
    chosen = choose_resident(costs, resident_bytes=300, ring_bytes=ring)
    first = frozenset(range(4, 14))  # the same amount, taken from the front
    assert not chosen & {0, 1, 2, 3, 24, 25, 26, 27}
    assert predict_seconds(costs, chosen, ring_bytes=ring, link_bytes_per_s=link) < predict_seconds(
        costs, first, ring_bytes=ring, link_bytes_per_s=link
    )


def test_prediction_is_the_compute_when_all_is_resident_and_the_link_when_compute_is_nothing() -> None:
    costs = [PieceCost(10, 0.25)] * 8
    assert predict_seconds(costs, range(8), ring_bytes=40, link_bytes_per_s=1) == pytest.approx(2)
    idle = [PieceCost(10, 0.0)] * 8
    assert predict_seconds(idle, (), ring_bytes=40, link_bytes_per_s=10) == pytest.approx(8)
