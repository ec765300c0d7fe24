"""Batches go to the device that is done with them first, by times that are learnt once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.shares import LESSONS, Speeds, deal

CARDS = [torch.device("xpu", index) for index in range(3)]


def ends(owners: list[torch.device], elements: list[int], seconds: dict[torch.device, float]) -> float:
    busy = dict.fromkeys(seconds, 0.0)
    for owner, size in zip(owners, elements, strict=True):
        busy[owner] += seconds[owner] * size
    return max(busy.values())


@pytest.mark.parametrize(
    ("batches", "slower", "shares"),
    [(2, 1.0, [1, 1]), (2, 1.9, [1, 1]), (2, 2.1, [2, 0]), (1, 1.0, [1, 0]), (3, 2.0, [2, 1]), (6, 2.0, [4, 2])],
)
def test_a_slower_card_gets_what_it_is_done_with_in_time(batches: int, slower: float, shares: list[int]) -> None:
    owners = deal([1] * batches, {CARDS[0]: 1.0, CARDS[1]: slower})
    assert [owners.count(card) for card in CARDS[:2]] == shares


@given(
    count=st.integers(1, 6),
    times=st.lists(st.floats(0.01, 100), min_size=1, max_size=3),
)
def test_no_other_way_to_deal_equal_batches_ends_sooner(count: int, times: list[float]) -> None:
    seconds = dict(zip(CARDS, times, strict=False))
    dealt = ends(deal([1] * count, seconds), [1] * count, seconds)
    every = itertools.product(seconds, repeat=count)
    assert dealt <= min(ends(list(owners), [1] * count, seconds) for owners in every) * (1 + 1e-9)


def test_a_card_counts_as_the_fastest_until_it_was_measured_twice_and_keeps_the_shorter_time() -> None:
    speeds, (first, second, _) = Speeds(), CARDS
    for seconds in (90.0, 10.0, 1.0):  # compiling, computing, and what comes too late to be learnt
        speeds.learn(first, 10, seconds)
    speeds.learn(second, 10, 40.0)
    assert LESSONS == 2
    assert speeds.assumed([first, second]) == {first: 1.0, second: 1.0}
    speeds.learn(second, 10, 30.0)
    assert speeds.assumed([first, second]) == {first: 1.0, second: 3.0}
