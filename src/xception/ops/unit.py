"""`separable_unit`: a separable convolution with the neighbouring normalization folded in.

Batch normalization is split in two: its statistics are taken where a tensor is made, its
application (scale, shift, activation) happens where the tensor is read. So nothing but the raw
outputs of the convolutions goes through memory, forward and backward.

Legend: see reference.py. Source of the decomposition: Ioffe and Szegedy 2015, section 3; here
mean and var are outputs with gradients, so the normalization's gradient is autograd's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library

from xception.ops import reference
from xception.ops.eager import differentiable_gradients, is_ordinary, wants_gradients
from xception.ops.geometry import four_sides, output_size, two_sides
from xception.ops.kernels import address, can_use_kernels, required_kernels
from xception.ops.region import empty_map

# In the order of the kernels' enumeration.
ACTIVATIONS = ("none", "relu", "relu6", "hardswish", "silu")


def separable_unit(
    x: Tensor,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    *,
    activation: str = "none",
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    statistics: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = pointwise * (depthwise * activation(x * in_scale + in_shift)), with y's mean and var.

    x: (N, C, H, W), floating, channels-last preferred
    in_scale, in_shift: (C,), or both None
    depthwise: (C, 1, kh, kw), or None: no spatial step (stride and padding still apply)
    pointwise: (O, C, 1, 1), or None: no step across channels
    activation: "none", "relu", "relu6", "hardswish" or "silu"
    stride, padding, dilation: as in `separable_conv2d`; the zeros of the padding come after scale,
        shift and activation
    statistics: False leaves mean and var out (empty tensors)

    y: (N, O, H', W'); mean, var: (O,), of y over N, H' and W'; var is the biased one (divided by
    the number of values). All three have gradients.
    Raises ValueError naming the argument when shapes do not fit together.
    """
    geometry = (two_sides(stride, "stride"), four_sides(padding), two_sides(dilation, "dilation"))
    arguments = (x, in_scale, in_shift, activation, depthwise, pointwise, *geometry, statistics)
    has_outputs = x.numel() > 0 and (pointwise is None or pointwise.shape[0] > 0)
    tensors = (x, in_scale, in_shift, depthwise, pointwise)
    if has_outputs and can_use_kernels(*tensors):  # all three ways check what they are given
        if not is_ordinary(*tensors):
            return torch.ops.xception.separable_unit(*arguments)
        return (
            XceptionSeparableUnit.apply(*arguments)
            if wants_gradients(*tensors)
            else _compute(*arguments)
        )
    _check(x, in_scale, in_shift, activation, depthwise, pointwise)
    return reference.separable_unit(*arguments)


def _check(
    x: Tensor,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    activation: str,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be (N, C, H, W), got {tuple(x.shape)}")
    channels = x.shape[1]
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    if (in_scale is None) != (in_shift is None):
        raise ValueError("in_scale and in_shift come together, or neither")
    for name, vector in (("in_scale", in_scale), ("in_shift", in_shift)):
        if vector is not None and tuple(vector.shape) != (channels,):
            raise ValueError(f"{name} must be ({channels},), got {tuple(vector.shape)}")
    if depthwise is not None and (
        depthwise.dim() != 4 or depthwise.shape[:2] != (channels, 1) or 0 in depthwise.shape[2:]
    ):
        raise ValueError(f"depthwise must be ({channels}, 1, kh, kw), got {tuple(depthwise.shape)}")
    if pointwise is not None and (
        pointwise.dim() != 4 or tuple(pointwise.shape[1:]) != (channels, 1, 1)
    ):
        raise ValueError(f"pointwise must be (O, {channels}, 1, 1), got {tuple(pointwise.shape)}")


def _compute(
    x: Tensor,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    activation: str,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    extension = required_kernels("separable_unit", x)
    _check(x, in_scale, in_shift, activation, depthwise, pointwise)
    x = x.contiguous(memory_format=torch.channels_last)
    _check_output(x, depthwise, stride, padding, dilation)
    y = _empty_output(x, depthwise, pointwise, stride, padding, dilation)
    mean, squares = (x.new_empty(y.shape[1] if statistics else 0) for _ in range(2))
    tensors = [t if t is None else t.contiguous() for t in (in_scale, in_shift)]
    weights = [t if t is None else t.contiguous() for t in (depthwise, pointwise)]
    outputs = (y, mean, squares) if statistics else (y, None, None)
    extension.unit(
        kernel_shape(x, y, activation, depthwise, stride, padding, dilation),
        [address(t) for t in (x, *tensors, *weights, *outputs)],
        torch.get_num_threads(),
    )
    return y, mean, squares.div_(y.numel() // max(y.shape[1], 1))


_unit = library.custom_op("xception::separable_unit", _compute, mutates_args=())


@_unit.register_fake
def _unit_fake(
    x: Tensor,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    activation: str,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, in_scale, in_shift, activation, depthwise, pointwise)
    y = _empty_output(x, depthwise, pointwise, stride, padding, dilation)
    count = y.shape[1] if statistics else 0
    return y, x.new_empty(count), x.new_empty(count)


def unit_gradients(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    grad_var: Tensor | None,
    y: Tensor,
    mean: Tensor,
    x: Tensor,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    activation: str,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    needs_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, in_scale, in_shift, depthwise and pointwise; empty where there is no such."""
    extension = required_kernels("separable_unit", x, has_begun=True)
    x, y, grad_y = (t.contiguous(memory_format=torch.channels_last) for t in (x, y, grad_y))
    results = _empty_gradients(x, in_scale, in_shift, depthwise, pointwise)
    scale, shift = (t if t is None else t.contiguous() for t in (in_scale, in_shift))
    weights = [t if t is None else t.contiguous() for t in (depthwise, pointwise)]
    offset = slope = None
    if grad_mean is not None or grad_var is not None:
        count = y.numel() // y.shape[1]
        offset = torch.zeros_like(mean) if grad_mean is None else grad_mean / count
        slope = torch.zeros_like(mean) if grad_var is None else grad_var * (2 / count)
    addresses = [
        address(t) for t in (grad_y, y, mean, offset, slope, x, scale, shift, *weights, *results)
    ]
    if not needs_x:
        addresses[10] = 0
    extension.unit_backward(
        kernel_shape(x, y, activation, depthwise, stride, padding, dilation),
        addresses,
        torch.get_num_threads(),
    )
    return results


_unit_backward = library.custom_op(
    "xception::separable_unit_backward", unit_gradients, mutates_args=()
)


@_unit_backward.register_fake
def _unit_backward_fake(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    grad_var: Tensor | None,
    y: Tensor,
    mean: Tensor,
    x: Tensor,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    activation: str,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    needs_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _empty_gradients(x, in_scale, in_shift, depthwise, pointwise)


def _empty_output(
    x: Tensor,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    kernel = (1, 1) if depthwise is None else depthwise.shape[2:]
    size = output_size(x, kernel, stride, padding, dilation)
    channels = x.shape[1] if pointwise is None else pointwise.shape[0]
    return empty_map(x, (x.shape[0], channels, *size))


def _check_output(
    x: Tensor,
    depthwise: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    kernel = (1, 1) if depthwise is None else depthwise.shape[2:]
    if min(output_size(x, kernel, stride, padding, dilation)) < 1:
        raise ValueError(
            f"x of {tuple(x.shape[2:])} pixels with padding {list(padding)} is smaller than the "
            f"depthwise kernel {tuple(kernel)} with dilation {list(dilation)}"
        )


def _empty_gradients(
    x: Tensor,
    in_scale: Tensor | None,
    in_shift: Tensor | None,
    depthwise: Tensor | None,
    pointwise: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_x = empty_map(x, x.shape)
    vectors = (x.new_empty(0 if v is None else v.shape[0]) for v in (in_scale, in_shift))
    weights = (
        x.new_empty(0) if w is None else torch.empty_like(w, memory_format=torch.contiguous_format)
        for w in (depthwise, pointwise)
    )
    return (grad_x, *vectors, *weights)  # type: ignore[return-value]


def kernel_shape(
    x: Tensor,
    y: Tensor,
    activation: str,
    depthwise: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    n, c, h, w = x.shape
    kernel = (1, 1) if depthwise is None else tuple(depthwise.shape[2:])
    return [
        n, h, w, c, y.shape[2], y.shape[3], y.shape[1], *kernel, *stride,
        padding[0], padding[2], *dilation, ACTIVATIONS.index(activation),
    ]  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, in_scale, in_shift, activation, depthwise, pointwise, *geometry, statistics = inputs
    y, mean, var = output
    if not statistics:
        ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, in_scale, in_shift, depthwise, pointwise, y if statistics else x, mean)
    ctx.settings = (activation, geometry, statistics)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any,
    grad_y: Any,
    grad_mean: Any,
    grad_var: Any,
    run: Callable[..., tuple[Tensor, ...]] = torch.ops.xception.separable_unit_backward,
) -> tuple[Tensor | None, ...]:
    x, in_scale, in_shift, depthwise, pointwise, y, mean = ctx.saved_tensors
    activation, (stride, padding, dilation), statistics = ctx.settings
    if not statistics:
        if grad_y is None:  # a gradient that is zero arrived
            return (None,) * len(ctx.needs_input_grad)
        y = grad_y  # not read without gradients of statistics; of the right shape
        grad_mean = grad_var = None
    if grad_y is None:
        grad_y = torch.zeros_like(y)
    grads = run(
        grad_y, grad_mean, grad_var, y, mean, x, in_scale, in_shift, activation, depthwise,
        pointwise, stride, padding, dilation, ctx.needs_input_grad[0],
    )  # fmt: skip
    grad_x, grad_scale, grad_shift, grad_depthwise, grad_pointwise = grads
    return (
        grad_x if ctx.needs_input_grad[0] else None,
        None if in_scale is None else grad_scale,
        None if in_shift is None else grad_shift,
        None,
        None if depthwise is None else grad_depthwise,
        None if pointwise is None else grad_pointwise,
        None,
        None,
        None,
        None,
    )


_unit.register_autograd(_backward, setup_context=_setup_context)


class XceptionSeparableUnit(torch.autograd.Function):
    """The same two bodies for autograd alone."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = _compute(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad_y: Any, grad_mean: Any, grad_var: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the kernels have no second derivative
            x, in_scale, in_shift, depthwise, pointwise, _, _ = ctx.saved_tensors
            activation, geometry, statistics = ctx.settings
            arriving = (grad_y, grad_mean, grad_var)
            if all(grad is None for grad in arriving):
                return (None,) * len(ctx.needs_input_grad)
            inputs = (x, in_scale, in_shift, activation, depthwise, pointwise, *geometry)
            return differentiable_gradients(
                reference.separable_unit, (*inputs, statistics), ctx.needs_input_grad, arriving
            )
        return _backward(ctx, grad_y, grad_mean, grad_var, unit_gradients)
