"""The words users give for how much of a model stays on its device."""

from __future__ import annotations

import pytest

from xpu_utils.residency import CHOICES, resident_share


@pytest.mark.parametrize(
    ("text", "share"), [("auto", None), ("all", 1.0), ("45%", 0.45), ("12.5 %", 0.125), ("0%", 0.0), ("100%", 1.0)]
)
def test_a_share_is_understood(text: str, share: float | None) -> None:
    assert resident_share(text) == share


@pytest.mark.parametrize("text", ["", "45", "-1%", "101%", "half", None, 45, "1e1%", "nan%"])
def test_anything_else_is_refused_in_a_sentence(text: object) -> None:
    with pytest.raises(ValueError, match="is not a share, use auto, all or a percentage"):
        resident_share(text)


def test_every_choice_offered_is_understood() -> None:
    shares = [resident_share(choice) for choice in CHOICES]
    assert shares[0] is None
    assert shares[1:] == sorted(shares[1:], reverse=True)  # type: ignore[type-var]
