"""The page of cards: what it says before and after somebody sends a report."""

from __future__ import annotations

from typing import Any

from tests.harness.hardware_page import CARDS, PAGE, UNREPORTED, page, reports


def part(*wrong: str, **more: Any) -> dict[str, Any]:
    return {"found": [{"wrong": problem, **more} for problem in wrong]}


def report(name: str, driver: str, **parts: Any) -> dict[str, Any]:
    """What `my-gpu` writes, as far as the page reads it."""
    right = {name: part("") for name in ("self-test", "memory", "attention", "out of memory")}
    formats = part("", format="int8", way="native")
    return {
        "system": "debian",
        "gpus": [{"driver": driver}],
        "torch": {"version": "2.13.0+xpu"},
        "devices": [{"id": "xpu:0", "name": name, "driver_version": "1.13"}, {"id": "cpu", "name": "a CPU"}],
        "parts": {"xpu:0": {**right, "formats": formats, **parts}},
    }


def test_the_page_says_what_was_reported() -> None:
    assert page(reports()) == PAGE.read_text(encoding="utf-8"), "make hardware-page"


def test_a_report_fills_the_row_of_its_card_and_driver_only() -> None:
    before = page([])
    assert before.count(UNREPORTED) == sum(map(len, CARDS.values()))
    sent = report(
        "Intel(R) Arc(TM) B580 Graphics", "xe", memory={**part("saw 0 of 1024 MiB", ""), "ended": "by SIGABRT"}
    )
    after = page([sent])
    (row,) = set(after.splitlines()) - set(before.splitlines())
    told = "right | 1 of 2 wrong, ended by SIGABRT | right | int8 | right | not run"
    assert row == f"| Arc B580 | xe 1.13 | 2.13.0+xpu | {told} |"
    assert after.count(UNREPORTED) == before.count(UNREPORTED) - 1
