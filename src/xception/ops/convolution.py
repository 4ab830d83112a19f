"""`conv2d`: torch's, with the gradient of its weight taken in the faster layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xception.ops.eager import differentiable_gradients, is_ordinary, wants_gradients
from xception.ops.kernels import can_use_kernels
from xception.ops.region import empty_map

_LEAST_CHANNELS = 32  # with the three of a picture, copies cost what is won


def conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """`torch.nn.functional.conv2d` without bias, groups and dilation.

    x: (N, C, H, W); weight: (O, C, kernel, kernel); returns (N, O, P, Q)

    In channels last, oneDNN with AVX2 takes longer over a regular kernel's gradient than in torch's
    default layout, copies included; so that one is taken there. AVX-512 has not been measured.
    """
    if not (
        is_ordinary(x, weight)  # first: a compiler follows no further
        and wants_gradients(weight)
        and weight.shape[1] >= _LEAST_CHANNELS
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and can_use_kernels(x, weight)
    ):
        return F.conv2d(x, weight, None, stride, padding)
    return _Conv2d.apply(x, weight, stride, padding)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding)
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        needs_x, needs_weight, _, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph
            inputs = (x, weight, None, stride, padding)
            needs = (needs_x, needs_weight, False, False, False)
            found = differentiable_gradients(F.conv2d, inputs, needs, (grad,))
            return *found[:2], None, None
        grad_x = grad_weight = None
        if needs_x:
            grad_x = _gradients(grad, x, weight, stride, padding, (True, False))[0]
        if needs_weight:
            # Of the weight the shape alone is read; in channels last it would decide the layout.
            grad_weight = _gradients(
                _in_default_layout(grad), _in_default_layout(x), weight.contiguous(), stride,
                padding, (False, True),
            )[1]  # fmt: skip
        return grad_x, grad_weight, None, None


def _in_default_layout(x: Tensor) -> Tensor:
    if x.is_contiguous():
        return x
    return empty_map(x, x.shape, memory_format=torch.contiguous_format).copy_(x)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, [1, 1], False, [0, 0], 1, [*needs, False]
    )
    return found[:2]
