"""The host's threads while a device does the work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from xpu_utils.cpu.threads import HostThreads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_beside_a_device_all_in_its_place_and_as_before_in_the_end() -> None:
    threads = HostThreads()
    with threads.one():
        assert torch.get_num_threads() == 1
        with threads.all():
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_what_was_set_meanwhile_stays() -> None:
    threads = HostThreads()
    with threads.one():
        with threads.all():
            torch.set_num_threads(2)
        with threads.all():
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2


def test_an_error_leaves_them_as_they_were() -> None:
    threads = HostThreads()
    with pytest.raises(RuntimeError), threads.one(), threads.all():
        raise RuntimeError
    assert torch.get_num_threads() == 3
