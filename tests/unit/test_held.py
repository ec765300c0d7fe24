"""What functions of other packs keep is found where people keep things, and put back there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from xpu_utils.recovery.held import Held, changed, held_by


class Pair(NamedTuple):
    tokens: torch.Tensor
    name: str


class Patch:
    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def __call__(self) -> Any:
        return self.kept

    def method(self) -> Any:
        return self.kept


def in_a_closure(kept: Any) -> Callable[[], Any]:
    return lambda: kept


def in_a_dict_of_a_closure(kept: Any) -> Callable[[], Any]:
    state = {"last": [kept]}
    return lambda: state["last"][0]


def in_a_default(kept: Any) -> Callable[[], Any]:
    def patch(*, state: Any = {"kept": kept}) -> Any:  # noqa: B006
        return state["kept"]

    return patch


def in_a_partial(kept: Any) -> Callable[[], Any]:
    return functools.partial(lambda state: state["kept"], {"kept": kept})


def in_an_attribute(kept: Any) -> Callable[[], Any]:
    return Patch(kept)


def behind_a_method(kept: Any) -> Callable[[], Any]:
    return Patch(kept).method


def everything(root: object) -> list[Held]:
    return list(held_by(root, spared=lambda _: False))


KEEPERS = (in_a_closure, in_a_dict_of_a_closure, in_a_default, in_a_partial, in_an_attribute, behind_a_method)


@pytest.mark.parametrize("keep", KEEPERS, ids=lambda keep: keep.__name__)
@pytest.mark.parametrize("kept", [torch.zeros(2), torch.device("cpu"), Pair(torch.zeros(2), "tokens")], ids=type)
def test_what_is_kept_is_found_and_replaced(keep: Callable[[Any], Callable[[], Any]], kept: Any) -> None:
    function = keep(kept)
    (held,) = everything(function)
    assert held.value is kept
    there = changed(held.value, lambda tensor: tensor + 1, lambda _: torch.device("meta"))
    held.put(there)
    assert function() is there
    assert everything(function)[0].place == held.place


def test_parameters_stay_parameters_and_what_does_not_change_stays_itself() -> None:
    layer = torch.nn.Linear(2, 2)
    for held in everything(layer):
        held.put(changed(held.value, lambda tensor: tensor.double()))
    assert {type(parameter) for parameter in layer.parameters()} == {torch.nn.Parameter}
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float64}
    pair = Pair(torch.zeros(2), "tokens")
    assert changed(pair, lambda tensor: tensor) is pair
    assert isinstance(changed(pair, lambda tensor: tensor + 1), Pair)


def test_what_is_forgotten_is_as_before_the_first_call() -> None:
    state: dict[str, Any] = {"last": torch.zeros(2), "names": ["a"]}
    patch = Patch(torch.zeros(2))
    for held in everything([state, patch]):
        held.forget()
    assert state == {"names": ["a"]}
    assert not hasattr(patch, "kept") or patch.kept is None


def test_circles_end_and_what_is_spared_is_left_out() -> None:
    patch = Patch({})
    patch.kept["self"] = patch
    patch.kept["tensor"] = torch.zeros(2)
    assert len(everything(patch)) == 1
    assert list(held_by(patch, spared=lambda owner: owner is patch.kept)) == []
    assert everything(torch) == everything(Patch) == []
