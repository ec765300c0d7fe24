"""Sizes that cannot end well are refused in one sentence."""

from __future__ import annotations

import pytest

from xpu_utils.memory.sizes import GIB, check_decoded, check_encoded, check_latent, check_step


def test_ordinary_sizes_pass() -> None:
    check_latent((1, 4, 64, 64))
    check_step((1, 4, 64, 64), 2 * GIB, 8 * GIB)
    check_decoded((1, 4, 128, 128), 8, 8 * GIB)
    check_decoded((1, 64, 1000), 2048, 8 * GIB)  # audio: one side
    check_decoded((1, 16, 21, 60, 104), 8, 8 * GIB)  # a film
    check_encoded((1, 8, 8, 3), (1, 8, 8, 3), 8)


@pytest.mark.parametrize("shape", [(1, 4, 0, 8), (1, 4, 8, 0), (0, 4, 8, 8)])
def test_a_latent_without_elements_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"The latent has no size .* above zero\.$"):
        check_latent(shape)


def test_a_step_that_no_device_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1x4x4096x4096 would need about 900 GiB a step.* smaller\.$"):
        check_step((1, 4, 4096, 4096), 900 * GIB, 800 * GIB)


def test_a_picture_that_the_host_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1x4x4096x4096 would become a picture of 12 GiB.* smaller\.$"):
        check_decoded((1, 4, 4096, 4096), 8, 8 * GIB)
    check_decoded((1, 4, 4096, 4096), 8, 16 * GIB)


def test_a_picture_smaller_than_one_latent_element_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The picture \(4x6 pixels\) is too small .* at least 8x8\.$"):
        check_encoded((1, 6, 4, 3), (1, 0, 0, 3), 8)
