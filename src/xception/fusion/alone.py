"""A depthwise convolution with nothing around it to fold in: only its way back is ours.

Forward there is nothing to win on torch's; backward one walk gives all gradients.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xception.fusion.legality import four_sides_of
from xception.ops.eager import differentiable_gradients


def depthwise_alone(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What `conv` computes, x (N, C, H, W) and float32 on a CPU."""
    return cast(Tensor, _Depthwise.apply(x, conv.weight, conv.bias, conv))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = conv.stride, conv.padding, conv.dilation, conv.groups
        ctx.sides = list(four_sides_of(conv))
        return F.conv2d(x, weight, bias, *ctx.geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        if torch.is_grad_enabled():  # create_graph: the kernels have no second derivative
            inputs = (x, weight, None, *ctx.geometry)
            needs = (needs_x, needs_weight, *[False] * 5)
            grad_x, grad_weight, *_ = differentiable_gradients(F.conv2d, inputs, needs, (grad,))
            return grad_x, grad_weight, grad_bias, None
        stride, _, dilation, _ = ctx.geometry
        grad_x, _, _, grad_weight, _ = torch.ops.xception.separable_unit_backward(
            grad, None, None, grad, grad.new_empty(0), x, None, None, "none", weight, None,
            list(stride), ctx.sides, list(dilation), needs_x,
        )  # fmt: skip
        return grad_x if needs_x else None, grad_weight, grad_bias, None
