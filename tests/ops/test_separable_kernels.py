"""`separable_conv2d` in float32, where the compiled kernels compute it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xception.ops import separable_conv2d, set_kernels

GEOMETRIES = [
    {"padding": 1},
    {"padding": (0, 1, 2, 3), "stride": 2},
    {"padding": 2, "stride": (1, 3), "dilation": 2},
]
BOUND = 1e-5  # of the largest value; see test_unit.py
NAMES = ("x", "depthwise", "pointwise", "bias")


def inputs(*, bias: bool = True, multiplier: int = 1) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    hidden = 33 * multiplier
    shapes = [(2, 33, 9, 8), (hidden, 1, 3, 3), (40, hidden, 1, 1), (40,)]
    tensors = {n: torch.randn(*s, generator=generator) for n, s in zip(NAMES, shapes)}
    return tensors if bias else tensors | {"bias": None}


def results(
    tensors: dict[str, Tensor | None], dtype: torch.dtype, between: str = "", **geometry: Any
) -> dict[str, Tensor]:
    """between: the kernels to set after forward, before backward."""
    leaves = {n: t if t is None else t.to(dtype).requires_grad_() for n, t in tensors.items()}
    out = separable_conv2d(**leaves, **geometry)
    arriving = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if between:
        set_kernels(between)
    wanted = {name: t for name, t in leaves.items() if t is not None}
    grads = torch.autograd.grad(out, list(wanted.values()), arriving)
    return {"out": out, **dict(zip(wanted, grads))}


def assert_near(found: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    assert found.keys() == exact.keys()
    for name, expected in exact.items():
        assert (found[name] - expected).abs().max() <= BOUND * expected.abs().max(), name


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["plain", "strided", "dilated"])
def test_values_and_gradients(
    instruction_set: str, geometry: dict[str, Any], multiplier: int, bias: bool
) -> None:
    """A depth multiplier is plain torch's."""
    tensors = inputs(bias=bias, multiplier=multiplier)
    found = results(tensors, torch.float32, **geometry)
    assert ("xception" in type(found["out"].grad_fn).__name__.lower()) == (multiplier == 1)
    assert_near(found, results(tensors, torch.float64, **geometry))


def test_kernels_turned_off_before_the_way_back(instruction_set: str) -> None:
    found = results(inputs(), torch.float32, between="off", padding=1)
    assert_near(found, results(inputs(), torch.float64, padding=1))


@pytest.mark.usefixtures("instruction_sets")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_opcheck(bias: bool) -> None:
    tensors = [t if t is None else t.requires_grad_() for t in inputs(bias=bias).values()]
    arguments = (*tensors, [2, 1], [0, 1, 1, 1], [1, 1])
    torch.library.opcheck(torch.ops.xception.separable_conv2d, arguments)


def test_a_picture_smaller_than_the_kernel_is_refused(instruction_set: str) -> None:
    tensors = inputs() | {"x": torch.zeros(1, 33, 2, 2)}
    with pytest.raises(ValueError, match=r"x of \(2, 2\) pixels .* smaller than the depthwise"):
        separable_conv2d(**tensors)


@pytest.mark.usefixtures("instruction_sets")
def test_forward_mode_is_plain_torch() -> None:
    """A registered operator would have no part in it: a tangent of zero, silently."""
    tensors = tuple(inputs().values())

    def total(*given: Tensor) -> Tensor:
        return separable_conv2d(*given, padding=1).sin().sum()

    leaves = [t.clone().requires_grad_() for t in tensors]
    along = sum(g.sum() for g in torch.autograd.grad(total(*leaves), leaves))
    _, tangent = torch.func.jvp(total, tensors, tuple(map(torch.ones_like, tensors)))
    torch.testing.assert_close(tangent, along, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("which", NAMES)
def test_mixed_dtypes_are_plain_torch_s_error(instruction_set: str, which: str) -> None:
    """One tensor in float64 among others in float32 never reaches the kernels."""
    tensors = inputs()
    tensors[which] = tensors[which].double()
    with pytest.raises(RuntimeError):
        separable_conv2d(**tensors, padding=1)
