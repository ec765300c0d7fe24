"""Where streamed weights lie in the ring, and which weights stay on the device."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.streaming import window
from xpu_utils.streaming.lesson import alike
from xpu_utils.streaming.plan import RING_BYTES, PieceCost, choose, choose_resident, ring_size
from xpu_utils.streaming.window import RingPlan, plan_ring

COSTS = st.lists(st.builds(PieceCost, st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=30)
RING = 100


@st.composite
def passes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The sizes of some pieces, and an order in which a pass uses them: loops over some, and some again anywhere."""
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=14))
    order: list[int] = []
    while len(order) < len(sizes) or draw(st.booleans()):
        start = draw(st.integers(0, len(sizes) - 1))
        loop = list(range(start, draw(st.integers(start, min(start + 5, len(sizes) - 1))) + 1))
        order += loop * draw(st.integers(1, 3))
    numbered = {piece: number for number, piece in enumerate(dict.fromkeys(order))}  # by first use, as streams do
    return [sizes[piece] for piece in numbered], [numbered[piece] for piece in order]


def copies(plan: RingPlan, passes: int) -> Iterator[tuple[int, int]]:
    """(stay, uses before it) of every copy, as the stream issues them."""
    yield from ((stay, 0) for stay in range(plan.primed))
    uses = len(plan.stay_of)
    for used in range(passes * uses):
        yield from ((stay, used + 1) for stay in plan.unlocks[used % uses])


@given(passes())
def test_every_use_finds_its_piece_in_the_ring_and_copies_go_in_order(given_pass: tuple[list[int], list[int]]) -> None:
    sizes, order = given_pass
    plan = plan_ring(order, sizes, RING)
    issued = collections.deque(copies(plan, 3))
    assert [stay for stay, _ in issued] == [number % len(plan.stays) for number in range(len(issued))]
    ring: list[int | None] = [None] * RING
    for use in range(3 * len(order)):
        while issued and issued[0][1] <= use:
            index, _ = issued.popleft()
            stay = plan.stays[index]
            ring[stay.offset : stay.offset + sizes[stay.piece]] = [stay.piece] * sizes[stay.piece]
            assert len(ring) == RING
        stay = plan.stays[plan.stay_of[use % len(order)]]
        assert stay.piece == order[use % len(order)]
        assert set(ring[stay.offset : stay.offset + sizes[stay.piece]]) == {stay.piece}


@given(passes())
def test_a_piece_is_copied_again_only_where_what_was_copied_since_did_not_fit_beside_it(
    given_pass: tuple[list[int], list[int]],
) -> None:
    sizes, order = given_pass
    stays = plan_ring(order, sizes, RING).stays
    for first, second in itertools.combinations(range(len(stays)), 2):
        if stays[first].piece == stays[second].piece:
            assert sum(sizes[stay.piece] for stay in stays[first:second]) + max(sizes) > RING


@given(passes(), st.integers(0, 600))
def test_what_is_held_stays_within_the_budget_and_no_more_is_copied_than_a_use_each(
    given_pass: tuple[list[int], list[int]], budget: int
) -> None:
    sizes, order = given_pass
    costs = tuple(PieceCost(size, 1.0) for size in sizes)
    choice = choose(costs, tuple(order), budget_bytes=budget, ring_bytes=RING)
    assert choice.ring_bytes >= RING
    assert sum(sizes[index] for index in choice.resident) + choice.ring_bytes <= RING + budget
    uses = collections.Counter(order)
    plain = choose_resident(costs, resident_bytes=budget, ring_bytes=RING, always=first_repeated(sizes, uses, budget))
    assert copied(sizes, order, choice.resident, choice.ring_bytes) <= sum(
        sizes[index] * count for index, count in uses.items() if index not in plain
    )
    if len(order) == len(sizes):
        assert (choice.resident, choice.ring_bytes) == (plain, RING)


def first_repeated(sizes: Sequence[int], uses: collections.Counter[int], budget: int) -> set[int]:
    """The first of those that are used again, as far as they fit."""
    chosen: set[int] = set()
    for index, size in enumerate(sizes):
        if uses[index] > 1 and size <= budget:
            chosen.add(index)
            budget -= size
    return chosen


def copied(sizes: Sequence[int], order: Sequence[int], resident: Collection[int], ring_bytes: int) -> int:
    plan = plan_ring([index for index in order if index not in resident], sizes, ring_bytes)
    return sum(sizes[stay.piece] for stay in plan.stays)


def test_blocks_that_are_used_twice_in_a_row_get_a_ring_that_holds_one_where_the_budget_has_room() -> None:
    """A block is larger than the ring: keeping as many pieces instead would save a quarter of what this does."""
    sizes = [30] * 40
    order = [index for start in range(0, 40, 5) for _ in range(2) for index in range(start, start + 5)]
    costs = tuple(PieceCost(size, 1.0) for size in sizes)
    choice = choose(costs, tuple(order), budget_bytes=120, ring_bytes=RING)
    assert choice.ring_bytes > RING
    assert copied(sizes, order, choice.resident, choice.ring_bytes) <= sum(sizes)
    less = choose(costs, tuple(order), budget_bytes=60, ring_bytes=RING)
    assert (len(less.resident), less.ring_bytes) == (2, RING), "where it has none, what is resident saves both copies"


def test_of_two_loops_over_all_as_many_pieces_stay_as_fit() -> None:
    costs = (PieceCost(30, 1.0),) * 40
    choice = choose(costs, (*range(40), *range(40)), budget_bytes=300, ring_bytes=RING)
    assert (len(choice.resident), choice.ring_bytes) == (10, RING)


def test_few_rings_are_compared_and_what_was_chosen_once_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down and up again, as in a U-net: each piece is used again at a distance of its own."""
    pieces, rings = 120, []
    costs, order = (PieceCost(30, 1.0),) * pieces, (*range(pieces), *reversed(range(pieces)))

    def copies_of(order: Sequence[int], sizes_bytes: Sequence[int], ring_bytes: int) -> collections.Counter[int]:
        rings.append(ring_bytes)
        return window.copies_of(order, sizes_bytes, ring_bytes)

    monkeypatch.setattr("xpu_utils.streaming.plan.copies_of", copies_of)
    choice = choose(costs, order, budget_bytes=1500, ring_bytes=RING)
    assert 4 < len(set(rings)) <= 10
    assert max(rings) > 1300
    compared = len(rings)
    assert choose(costs, order, budget_bytes=1500, ring_bytes=RING) is choice
    assert len(rings) == compared


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
        plan_ring([0], [101], RING)


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
    plan = plan_ring(order, [cost.size_bytes for cost in costs], ring_bytes)
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


def test_layers_that_are_alike_take_as_long_whatever_was_loaded_meanwhile() -> None:
    seconds = {"in.0.q": 0.5, "in.1.q": 0.002, "in.2.q": 0.001, "in.0.out": 0.3, "in.1.wide": 0.004}
    sizes = {"in.0.q": 1, "in.1.q": 1, "in.2.q": 1, "in.0.out": 1, "in.1.wide": 2}
    expected = {"in.0.q": 0.002, "in.1.q": 0.002, "in.2.q": 0.002, "in.0.out": 0.3, "in.1.wide": 0.004}
    assert alike(seconds, sizes) == expected
