"""`measured` by the compiled kernels: values and gradients against float64, and torch's modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xception.ops import measured

SHAPES = [(2, 3, 5, 7), (3, 33, 9, 8), (1, 64, 40, 41), (2, 40, 1, 1)]


def results(x: Tensor, arriving: list[Tensor]) -> list[Tensor]:
    """x again, mean, var, and the gradient of x when `arriving` arrives at the three."""
    leaf = x.detach().requires_grad_()
    out = measured(leaf)
    (gradient,) = torch.autograd.grad(out, leaf, [g.to(x.dtype) for g in arriving])
    return [*(t.detach() for t in out), gradient]


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(instruction_sets: list[str], shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 3 + 5
    arriving = [torch.randn(s, generator=generator) for s in (shape, shape[1:2], shape[1:2])]
    for found, expected in zip(results(x, arriving), results(x.double(), arriving), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


def test_a_far_mean_costs_no_digits() -> None:
    """Squares are not subtracted: a variance of 1 beside a mean of 10,000 survives."""
    x = torch.randn(2, 16, 30, 30, generator=torch.Generator().manual_seed(1)) + 1e4
    _, _, var = measured(x)
    expected = x.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(var.double(), expected, rtol=1e-3, atol=0)


def test_only_some_of_the_outputs_are_used() -> None:
    x = torch.randn(2, 5, 4, 4, requires_grad=True)
    again, mean, var = measured(x)
    assert torch.equal(
        torch.autograd.grad(again.sum(), x, retain_graph=True)[0], torch.ones(x.shape)
    )
    (of_mean,) = torch.autograd.grad(mean.sum(), x, retain_graph=True)
    torch.testing.assert_close(of_mean, torch.full(x.shape, 1 / 32))
    (of_var,) = torch.autograd.grad(var.sum(), x)
    centred = x - x.mean((0, 2, 3), keepdim=True)
    torch.testing.assert_close(of_var, (centred * (2 / 32)).detach())


def test_second_derivatives_are_those_of_plain_torch() -> None:
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64)

    def second(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        again, mean, var = measured(leaf)
        value = (again.pow(3) * mean[:, None, None]).sum() + var.pow(2).sum()
        (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), leaf)[0]

    torch.testing.assert_close(second(x.float()).double(), second(x), rtol=1e-4, atol=1e-3)


def test_a_compiled_call_is_plain_torch() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 5, 4, 4)
    compiled = torch.compile(measured, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(x), measured(x)):
        torch.testing.assert_close(found, expected)


def test_an_empty_batch() -> None:
    x, mean, var = measured(torch.empty(0, 3, 4, 4))
    assert x.shape == (0, 3, 4, 4) and mean.shape == var.shape == (3,)
