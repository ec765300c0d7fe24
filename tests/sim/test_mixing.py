"""Gradients, and what is refused: tensors of two devices in one call, numpy without a copy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.sim.comparing import INDEX, Function, numbers


def gradient_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_backward_through_a_small_model() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
    inputs = numbers(2, 3, 8, 8)
    model(inputs).sum().backward()
    expected = [gradient_of(parameter).clone() for parameter in model.parameters()]
    model.zero_grad()
    model.to("xpu")(inputs.to("xpu")).sum().backward()
    for gradient, parameter in zip(expected, model.parameters(), strict=True):
        assert gradient_of(parameter).device == torch.device("xpu:0")
        torch.testing.assert_close(gradient_of(parameter).cpu(), gradient)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: y + x,
        lambda x, y: x @ y.t(),
        lambda x, y: torch.cat((x, y)),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: F.linear(x, y),
        lambda x, y: F.embedding(INDEX.to(x.device), y),
        lambda x, y: x.gather(0, y.long()),
        lambda x, y: torch.stack((x, y)),
        lambda x, y: torch.add(x, x, out=y),
        lambda x, y: F.conv1d(x[None], y[..., None]),
        lambda x, y: F.layer_norm(x, (4,), y[0]),
    ],
)
@pytest.mark.parametrize("elsewhere", ["cpu", "xpu:1"])
def test_tensors_on_two_devices_are_refused(function: Function, elsewhere: str) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        function(numbers(3, 4).to("xpu:0"), numbers(3, 4).to(elsewhere))


def test_numpy_needs_a_copy_to_the_host() -> None:
    with pytest.raises(TypeError, match="can't convert xpu:0 device type tensor to numpy"):
        torch.ones(2, device="xpu").numpy()
