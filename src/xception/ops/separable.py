"""The operator: its schema, the checks on its arguments, autograd, autocast, and who computes it.

`torch.ops.xception.separable_conv2d` is what the compiled kernels compute (they are those of
`separable_unit`). Where they cannot, `separable_conv2d` calls the reference, two ordinary
convolutions, itself: those are visible to autograd, to compilers and to exporters, and cost one
dispatch less.

Legend: see reference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, library

from xception.ops import reference
from xception.ops.geometry import four_sides, two_sides
from xception.ops.kernels import can_use_kernels

_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


def separable_conv2d(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Depthwise separable convolution: a spatial filter per channel, then a 1x1 across channels.

    Equivalent to::

        hidden = F.conv2d(x, depthwise, None, stride, padding, dilation, groups=x.shape[1])
        out = F.conv2d(hidden, pointwise, bias)

    x: (N, C, H, W), floating, channels-last preferred
    depthwise: (C*M, 1, kh, kw), M the depth multiplier
    pointwise: (O, C*M, 1, 1)
    bias: (O,) or None
    stride, dilation: an int or (height, width), at least 1
    padding: an int, (height, width) or (top, bottom, left, right), pixels of zeros, at least 0
    out: (N, O, H', W') in x's dtype (autocast's lower precision inside an autocast region)

    Raises ValueError naming the argument and the shapes when they do not fit together.
    Source: paper section 2 ("depthwise separable convolution", no non-linearity between).
    """
    stride_hw = two_sides(stride, "stride")
    dilation_hw = two_sides(dilation, "dilation")
    padding_tblr = four_sides(padding)
    if not _is_tracing():  # which would warn of every comparison
        _check_shapes(x, depthwise, pointwise, bias)
    arguments = (x, depthwise, pointwise, bias, stride_hw, padding_tblr, dilation_hw)
    exporting = torch.compiler.is_exporting() or _is_tracing()
    if _prefers_operator(x, depthwise, pointwise, bias) and not exporting:
        return torch.ops.xception.separable_conv2d(*arguments)
    return reference.separable_conv2d(*arguments)


def _prefers_operator(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor | None) -> bool:
    """Whether the operator is worth its dispatch: only where a fused kernel is behind it."""
    return _is_fused(x, depthwise, pointwise, bias)


def _is_fused(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor | None) -> bool:
    """Whether the compiled kernels compute it: one filter a channel, float32 on a CPU."""
    if not can_use_kernels(x, depthwise, pointwise, bias):
        return False
    return depthwise.shape[0] == x.shape[1] and x.numel() > 0


def _check_shapes(x: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor | None) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be (N, C, H, W), got {tuple(x.shape)}")
    channels = x.shape[1]
    if depthwise.dim() != 4 or depthwise.shape[1] != 1 or depthwise.shape[0] % channels:
        raise ValueError(
            f"depthwise must be (C*M, 1, kh, kw) with C = {channels} from x, "
            f"got {tuple(depthwise.shape)}"
        )
    hidden = depthwise.shape[0]
    if pointwise.dim() != 4 or tuple(pointwise.shape[1:]) != (hidden, 1, 1):
        raise ValueError(
            f"pointwise must be (O, {hidden}, 1, 1) to follow the depthwise step, "
            f"got {tuple(pointwise.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (pointwise.shape[0],):
        raise ValueError(f"bias must be ({pointwise.shape[0]},), got {tuple(bias.shape)}")


@library.custom_op("xception::separable_conv2d", mutates_args=())
def _operator(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    if not _is_fused(x, depthwise, pointwise, bias):
        return reference.separable_conv2d(x, depthwise, pointwise, bias, stride, padding, dilation)
    y, _, _ = torch.ops.xception.separable_unit(
        x, None, None, "none", depthwise, pointwise, stride, padding, dilation, False
    )
    return y if bias is None else y.add_(bias[:, None, None])


@_operator.register_fake
def _fake(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    out = reference.separable_conv2d(x, depthwise, pointwise, bias, stride, padding, dilation)
    if not _is_fused(x, depthwise, pointwise, bias):
        return out
    return torch.empty_like(out, memory_format=torch.channels_last)


@library.custom_op("xception::separable_conv2d_backward", mutates_args=())
def _backward_operator(
    grad_out: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, depthwise and pointwise; the depthwise output is computed again, not kept.

    Keeping it would cost 14.7 million elements a picture at 299x299; computing it is 1.6% of the
    network's multiplications.
    """
    if not _is_fused(x, depthwise, pointwise, None):
        return reference.separable_conv2d_backward(
            grad_out, x, depthwise, pointwise, stride, padding, dilation
        )
    grads = torch.ops.xception.separable_unit_backward(
        grad_out, None, None, grad_out, x.new_empty(0), x, None, None, "none", depthwise,
        pointwise, stride, padding, dilation, True,
    )  # fmt: skip
    return grads[0], grads[3], grads[4]


@_backward_operator.register_fake
def _backward_fake(
    grad_out: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    is_fused = _is_fused(x, depthwise, pointwise, None)
    form = torch.channels_last if is_fused else torch.preserve_format
    return (
        torch.empty_like(x, memory_format=form),
        torch.empty_like(depthwise),
        torch.empty_like(pointwise),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, depthwise, pointwise, bias, stride, padding, dilation = inputs
    ctx.save_for_backward(x, depthwise, pointwise)
    ctx.geometry = (stride, padding, dilation)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    x, depthwise, pointwise = ctx.saved_tensors
    grads = torch.ops.xception.separable_conv2d_backward(
        grad_out, x, depthwise, pointwise, *ctx.geometry
    )
    grad_bias = grad_out.sum((0, 2, 3)) if ctx.has_bias else None
    return (*grads, grad_bias, None, None, None)


_operator.register_autograd(_backward, setup_context=_setup_context)
_library = library.Library("xception", "FRAGMENT")  # type: ignore[no-untyped-call]


def _autocast(device_type: str) -> None:
    """Cast to the dtype that the autocast region was opened with, then go on without autocast.

    float64 stays as it is, as autocast leaves it for torch's own convolutions.
    """

    def lowered(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64 or not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.get_autocast_dtype(device_type))

    def cast_and_call(
        x: Tensor,
        depthwise: Tensor,
        pointwise: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
    ) -> Tensor:
        x, depthwise, pointwise = lowered(x), lowered(depthwise), lowered(pointwise)
        bias = None if bias is None else lowered(bias)
        with torch.autocast(device_type, enabled=False):
            return torch.ops.xception.separable_conv2d(
                x,
                depthwise,
                pointwise,
                bias,
                stride,
                padding,
                dilation,
            )

    library.impl(_library, "separable_conv2d", f"Autocast{device_type.upper()}")(cast_and_call)


_autocast("cpu")
_autocast("cuda")
