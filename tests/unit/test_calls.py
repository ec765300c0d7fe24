"""Stand-ins for the host's functions: what they are given arrives, the way it was given."""

from __future__ import annotations

from typing import Any

import pytest

from xpu_utils.calls import Call, StandIn


def echo(*arguments: Any, **keywords: Any) -> Any:
    return arguments, keywords


def test_a_call_is_seen_by_name_and_handed_on_as_it_came() -> None:
    call = Call(("device", "bytes"), ("xpu:0",), {"full": True, "tomorrow": 1})
    assert call.get("device") == "xpu:0"
    assert call.get("full") is True
    assert call.get("bytes", 7) == 7
    assert call.on(echo) == (("xpu:0",), {"full": True, "tomorrow": 1})


def test_what_stands_behind_the_known_positions_travels_too() -> None:
    call = Call(("device",), ("xpu:0", "second", "third"), {})
    assert call.given() == {"device": "xpu:0"}
    assert call.changed(device="cpu").on(echo) == (("cpu", "second", "third"), {})


def test_a_change_is_made_where_the_value_was_given() -> None:
    call = Call(("device", "bytes", "full"), ("xpu:0",), {"bytes": 5})
    changed = call.changed(device="cpu", bytes=0, full=True)
    assert changed.on(echo) == (("cpu",), {"bytes": 0, "full": True})
    assert call.on(echo) == (("xpu:0",), {"bytes": 5}), "the call itself stays as it was"


def doubled(own: int, x: int, *, shape: Any = None) -> int | None:
    return None if x < 0 else own * x


STAND_IN = StandIn(echo, doubled, 2, hints=("options",))


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [((3,), {}), ((), {"x": 3}), ((3,), {"shape": 1}), ((3,), {"options": 1}), ((3, None), {"tomorrow": None})],
)
def test_what_the_cheaper_way_knows_it_does(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    assert STAND_IN(*arguments, **keywords) == 6


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [((3, 4), {}), ((3,), {"tomorrow": False}), ((), {"renamed": 3}), ((), {}), ((-3,), {"options": 1, "shape": 2})],
)
def test_everything_else_reaches_the_function_as_it_came(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    assert STAND_IN(*arguments, **keywords) == (arguments, keywords)


def test_what_comes_before_comes_before_either() -> None:
    told: list[str] = []
    stand_in = StandIn(echo, doubled, 2, before=lambda: told.append("before"))
    stand_in(1)
    stand_in(1, 2)
    assert told == ["before", "before"]
