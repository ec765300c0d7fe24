"""ONEAPI_DEVICE_SELECTOR, by the grammar of its documentation."""

from __future__ import annotations

import pytest

from xpu_utils.machine.selector import leaves, shows


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        ("", [0, 1]),
        ("level_zero:gpu", [0, 1]),
        ("level_zero:*", [0, 1]),
        ("*:*", [0, 1]),
        ("LEVEL_ZERO:GPU", [0, 1]),
        ("level_zero:0", [0]),
        ("level_zero:1,0", [0, 1]),
        ("*:gpu;opencl:cpu", [0, 1]),
        ("level_zero:1.0", [1]),
        ("!opencl:*", [0, 1]),
        ("*:*;!level_zero:0", [1]),
        ("!level_zero:0.1", [0, 1]),
        ("opencl:*", []),
        ("!level_zero:*", []),
        ("!*:gpu", []),
        ("level_zero:cpu", []),
        ("*:cpu", []),
        ("level_zero:7", []),
        ("cuda:*", []),
    ],
)
def test_which_level_zero_gpus_a_selector_leaves(selector: str, left: list[int]) -> None:
    assert [position for position in range(2) if shows(selector, position)] == left


@pytest.mark.parametrize(
    ("mask", "left"), [("", [0, 1]), ("0", [0]), ("0.0", [0]), ("1.0, 1.1", [1]), ("0,1", [0, 1]), ("7", [])]
)
def test_which_gpus_a_mask_leaves(mask: str, left: list[int]) -> None:
    assert [position for position in range(2) if leaves(mask, position)] == left
