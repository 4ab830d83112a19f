"""Activations that units fold into loading: values, gradients, and the ends of float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from xception.ops import merge, separable_unit

SMOOTH = {"hardswish": F.hardswish, "silu": F.silu}
UNIT = 2.0**-23  # in the last place, of numbers near 1


def by_the_kernels(x: Tensor, activation: str) -> Tensor:
    """x: (values,), through a unit of no step."""
    y, _, _ = separable_unit(
        x.reshape(1, 1, -1, 1), None, None, None, None, activation=activation, statistics=False
    )
    return y.flatten()


@pytest.mark.parametrize("activation", SMOOTH)
def test_values_over_the_whole_range(activation, instruction_set):
    x = torch.cat([torch.linspace(-120, 120, 40001), torch.linspace(-7, 7, 40001)])
    exact = SMOOTH[activation](x.double())
    error = (by_the_kernels(x, activation).double() - exact).abs()
    assert (error <= 4 * UNIT * exact.abs() + 1e-36).all(), error.max()


@pytest.mark.parametrize("activation", SMOOTH)
def test_gradients_over_the_whole_range(activation, instruction_set):
    x = torch.cat([torch.linspace(-120, 120, 40001), torch.linspace(-7, 7, 40001)])
    x, double = x.requires_grad_(), x.double().requires_grad_()
    (found,) = torch.autograd.grad(by_the_kernels(x, activation).sum(), x)
    (exact,) = torch.autograd.grad(SMOOTH[activation](double).sum(), double)
    kinks = (x.detach().abs() - 3).abs() < 1e-5 if activation == "hardswish" else x != x
    assert ((found.double() - exact).abs()[~kinks] <= 1e-6).all()


@pytest.mark.parametrize("activation", ["relu", *SMOOTH])
def test_the_ends_are_torchs(activation, instruction_set):
    ends = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3.0, -3.0, 1e30, -1e30, 1e-40]
    x = torch.tensor(ends * 16)  # longer than a vector, where torch's own formula is another
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    torchs = {"relu": F.relu, **SMOOTH}[activation]
    outputs = [by_the_kernels(leaves[0], activation), torchs(leaves[1])]
    torch.testing.assert_close(*outputs, equal_nan=True, rtol=1e-6, atol=1e-40)
    grads = [torch.autograd.grad(o.sum(), leaf)[0] for o, leaf in zip(outputs, leaves)]
    torch.testing.assert_close(*grads, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("kernel, outputs", [(3, 7), (5, None), (None, 40), (None, None)])
@pytest.mark.usefixtures("instruction_set")
def test_a_unit(activation, kernel, outputs, make_unit, arriving_at, assert_rounded):
    sides, padding = (None, 0) if kernel is None else ((kernel, kernel), kernel // 2)
    unit = make_unit((2, 35, 9, 6), outputs, sides, padding=padding, activation=activation)
    arriving = arriving_at(unit.call())
    assert_rounded(
        unit.results(arriving), unit.exact().results(arriving), unit.masses(arriving), 1e-5
    )


def test_merge_refuses_what_its_way_back_cannot_know():
    y, vector = torch.zeros(1, 2, 3, 3), torch.ones(2)
    with pytest.raises(ValueError, match=r"activation must be one of .*'relu6'.*, got 'silu'"):
        merge(y, vector, vector, activation="silu")
