"""Neighbouring channels are mixed: what one of them holds is spread over a group, so that one scale suits all.

A token's largest value sets the steps of the others. What GELU answers has one of ten to twenty times their size, and
some weights have the like. Mixed by a Hadamard matrix, in inputs and weights alike, products stay what they are. After
QuaRot (Ashkboos et al. 2024, arXiv:2404.00456): it looks at no inputs, so results depend on nothing that ran before.
"""

from __future__ import annotations

import functools

import torch

_LARGEST_ORDER = 64
"""Channels of a group: 128 and 256 are no better in pictures, and two and four times the work."""


def order(width: int) -> int:
    """How many channels are a group: the largest power of two that divides them all."""
    return min(width & -width, _LARGEST_ORDER)


@functools.lru_cache(maxsize=32)
def matrix(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """H / size, of which all values are exact in any format, H being the Hadamard matrix of ones and minus ones.

    It is its own transpose, and H H is the size.
    """
    two = torch.tensor([[1, 1], [1, -1]])
    with torch.inference_mode(False):  # so that it serves those who learn, too
        whole = functools.reduce(torch.kron, [two] * (size.bit_length() - 1), torch.ones(1, 1))
        return (whole / size).to(device, dtype)


def mixed(given: torch.Tensor) -> torch.Tensor:
    """given H / size in each group of (..., width); none of it is larger than the group's largest value.

    Weights that are multiplied with it are W H: the size times what this answers, of which it answers W.
    """
    size = order(given.shape[-1])
    return torch.matmul(given.unflatten(-1, (-1, size)), matrix(size, given.dtype, given.device)).flatten(-2)
