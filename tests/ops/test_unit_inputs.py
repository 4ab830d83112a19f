"""What `separable_unit` is given: memory layouts, NaN and infinity, nothing at all, mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xception.ops import separable_unit, set_kernels
from xception.ops.kernels import can_use_kernels

UNIT = ((2, 33, 9, 8), 40, (3, 3))


def misaligned(tensor: Tensor) -> Tensor:
    """The same in the same memory format, from an odd float on: no vector of it is aligned."""
    room = torch.empty(tensor.numel() + 1)
    return room[1:].as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)


def spread_out(tensor: Tensor) -> Tensor:
    """The same with unused floats between: every second one along its last axis."""
    return torch.stack((tensor, torch.full_like(tensor, torch.nan)), -1)[..., 0]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels first": lambda t: t.contiguous(),
    "misaligned": misaligned,
    "misaligned channels first": lambda t: misaligned(t.contiguous()),
    "spread out": spread_out,
    "part of a larger one": lambda t: torch.cat((t, t), -1)[..., : t.shape[-1]],
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts_change_nothing(
    instruction_set: str,
    make_unit: Callable[..., Any],
    arriving_at: Callable[..., Any],
    layout: str,
) -> None:
    """Of any argument, and of the gradients that arrive."""
    unit = make_unit(*UNIT, padding=1, activation="relu")
    gradients = arriving_at(unit.call())
    expected = unit.results(gradients)
    for name, tensor in list(unit.tensors.items()):
        if tensor.dim() == 4 or layout in ("misaligned", "spread out"):
            unit.tensors[name] = LAYOUTS[layout](tensor)
            assert torch.equal(unit.tensors[name], tensor)
    gradients[0] = LAYOUTS[layout](gradients[0])
    for name, result in unit.results(gradients).items():
        assert torch.equal(result, expected[name]), name


def test_expanded_tensors(instruction_set: str, make_unit: Callable[..., Any]) -> None:
    """One picture, one channel's scale and one filter for all; gradients arrive expanded, too."""
    unit = make_unit(*UNIT, padding=1, activation="relu")
    x, scale, shift, depthwise, pointwise = unit.tensors.values()
    narrow = [x[:1], scale[:1], shift[:1], depthwise[:1], pointwise[:1]]
    shapes = [(4, *x.shape[1:]), scale.shape, shift.shape, depthwise.shape, pointwise.shape]

    def gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in narrow]
        wide = [leaf.expand(shape) for leaf, shape in zip(leaves, shapes)]
        y, mean, var = separable_unit(*wide, padding=1, activation="relu")
        return torch.autograd.grad(y.sum() + mean.sum() + var.sum(), leaves)

    for found, exact in zip(gradients(torch.float32), gradients(torch.float64)):
        assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_results_are_channels_last(instruction_set: str, make_unit: Callable[..., Any]) -> None:
    unit = make_unit(*UNIT, padding=1)
    unit.tensors["x"] = unit.tensors["x"].contiguous().requires_grad_()
    y, _, _ = unit.call()
    (gradient,) = torch.autograd.grad(y.sum(), unit.tensors["x"])
    for tensor in (y, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_go_where_plain_torch_lets_them(
    instruction_set: str,
    make_unit: Callable[..., Any],
    arriving_at: Callable[..., Any],
    bad: float,
    activation: str,
) -> None:
    """relu(NaN) is NaN, and its gradient is let through; no other pixel or channel is touched."""
    for kernel, outputs in (((3, 3), None), ((3, 3), 5), (None, 5), (None, None)):
        unit = make_unit((2, 33, 9, 8), outputs, kernel, padding=1, activation=activation)
        unit.tensors["x"][1, 32, 4, 5] = unit.tensors["x"][0, 0, 0, 0] = bad
        arriving = [arriving_at(unit.call())[0], None, None]
        found = unit.results(arriving)
        before = set_kernels("off")
        expected = unit.results(arriving)
        set_kernels(before)
        for name in ("mean", "var"):  # an infinity's distance from another is NaN or infinite
            assert torch.equal(found.pop(name).isfinite(), expected.pop(name).isfinite()), name
        for name, result in found.items():
            if name != "y" and bad != bad and activation == "relu6":
                continue  # torch lets the gradient of NaN through or not, place by place
            torch.testing.assert_close(
                result, expected[name], rtol=1e-4, atol=1e-4, equal_nan=True, msg=name
            )


def test_nan_that_arrives_stays_in_its_channel(
    instruction_set: str, make_unit: Callable[..., Any]
) -> None:
    unit = make_unit((2, 40, 9, 8), None, (3, 3), padding=1, activation="relu")
    gradient = torch.ones(2, 40, 9, 8)
    gradient[0, 7, 4, 4] = torch.nan
    found = unit.results([gradient, None, None])
    touched = {name: found[name].isnan() for name in ("grad_x", "grad_in_scale", "grad_depthwise")}
    assert touched["grad_in_scale"].nonzero().flatten().tolist() == [7]
    assert touched["grad_depthwise"].nonzero()[:, 0].unique().tolist() == [7]
    places = touched["grad_x"].nonzero()
    assert places[:, :2].unique(dim=0).tolist() == [[0, 7]]
    assert (places[:, 2:] - 4).abs().max() <= 1


@pytest.mark.filterwarnings("ignore:var_mean.*degrees of freedom")
@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 3, 0, 5), (2, 0, 5, 5)])
def test_no_pixels(
    instruction_set: str, make_unit: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    """What plain torch makes of it, an error where it has one."""
    unit = make_unit(shape, None, (1, 1))
    before = set_kernels("off")
    try:
        expected = unit.call()
    except RuntimeError as error:
        set_kernels(before)
        with pytest.raises(RuntimeError, match=re.escape(str(error))):
            unit.call()
        return
    set_kernels(before)
    found = unit.call()
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_plain_torch(
    instruction_set: str, make_unit: Callable[..., Any], dtype: torch.dtype
) -> None:
    unit = make_unit(*UNIT, padding=1, activation="relu")
    for name, tensor in unit.tensors.items():
        unit.tensors[name] = tensor.to(dtype).requires_grad_()
    assert not can_use_kernels(*unit.tensors.values())
    outputs = unit.call()
    assert [out.dtype for out in outputs] == [dtype] * 3
    assert not any("xception" in type(out.grad_fn).__name__.lower() for out in outputs)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(3, 8, 8)}, r"x must be \(N, C, H, W\), got \(3, 8, 8\)"),
        ({"in_scale": torch.zeros(3)}, "in_scale and in_shift come together, or neither"),
        ({"in_shift": torch.zeros(3)}, "in_scale and in_shift come together, or neither"),
        (
            {"in_scale": torch.zeros(4), "in_shift": torch.zeros(3)},
            r"in_scale must be \(3,\), got \(4,\)",
        ),
        (
            {"in_scale": torch.zeros(3), "in_shift": torch.zeros(1, 3)},
            r"in_shift must be \(3,\), got \(1, 3\)",
        ),
        ({"depthwise": torch.zeros(6, 1, 3, 3)}, r"depthwise must be \(3, 1, kh, kw\), got \(6"),
        ({"depthwise": torch.zeros(3, 3, 3, 3)}, "depthwise must be"),
        ({"depthwise": torch.zeros(3, 1, 3)}, "depthwise must be"),
        ({"depthwise": torch.zeros(3, 1, 0, 3)}, "depthwise must be"),
        ({"pointwise": torch.zeros(4, 2, 1, 1)}, r"pointwise must be \(O, 3, 1, 1\), got \(4, 2"),
        ({"pointwise": torch.zeros(4, 3, 3, 3)}, "pointwise must be"),
        ({"pointwise": torch.zeros(4, 3)}, "pointwise must be"),
        ({"activation": "gelu"}, r"activation must be one of .*'relu6'.*, got 'gelu'"),
        ({"stride": 0}, "stride must be an int or two, at least 1; got 0"),
        ({"dilation": (1, 2, 3)}, "dilation must be an int or two"),
        ({"padding": -1}, "padding must be an int"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": torch.zeros(1, 3, 8, 8),
        "in_scale": None,
        "in_shift": None,
        "depthwise": torch.zeros(3, 1, 3, 3),
        "pointwise": torch.zeros(4, 3, 1, 1),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        separable_unit(**arguments)


@pytest.mark.parametrize("sides", [(2, 8), (8, 2), (1, 1)])
def test_a_picture_smaller_than_the_kernel_is_refused(
    instruction_set: str, make_unit: Callable[..., Any], sides: tuple[int, int]
) -> None:
    """Whether its output would have no pixel, or fewer than none."""
    unit = make_unit((1, 3, *sides), 4, (3, 3), dilation=2, padding=(1, 0, 0, 1))
    with pytest.raises(ValueError, match=r"x of .* is smaller than the depthwise kernel \(3, 3\)"):
        unit.call()


@pytest.mark.parametrize("distance", [3.3, 1e3])
def test_variance_beside_a_far_first_pixel(instruction_set: str, distance: float) -> None:
    """All other values are equal: what is lost in summing them cannot average out."""
    x = torch.full((1, 32, 1, 500), 0.1)
    x[..., 0] += (
        distance * torch.rand(32, generator=torch.Generator().manual_seed(0)).add(1.0)[:, None]
    )
    _, mean, var = separable_unit(x, None, None, None, None)
    wide = x.double()
    expected = wide.var((0, 2, 3), correction=0)
    torch.testing.assert_close(var.double(), expected, rtol=1e-5, atol=0)
    off_by = (mean.double() - wide.mean((0, 2, 3))).abs()
    assert (off_by / expected.sqrt()).max() < 1e-5  # what a normalized value is off by
