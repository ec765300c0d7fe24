"""A dozen families, of which each has something that the others lack; `make families` has them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_path

from .listing import COVERING
from .running import found
from .words import CHECKS


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return found(Path(host_path()), tmp_path_factory.mktemp("families"), COVERING)


@pytest.mark.parametrize("family", COVERING)
def test_a_family_gives_the_same_wherever_it_runs_and_whatever_fails(answers: Any, family: str) -> None:
    assert {check: why for check, why in answers["found"][family].items() if why} == {}
    assert CHECKS.keys() - answers["found"][family].keys() <= {"once"}


def test_every_family_of_the_host_is_described(answers: Any) -> None:
    assert answers["undescribed"] == []
