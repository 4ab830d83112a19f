"""A depthwise convolution with nothing around it to fold in: only its way back is ours.

Forward there is nothing to win on torch's; backward one walk gives all gradients.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from xception.fusion.legality import four_sides_of


def depthwise_alone(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What `conv` computes, x (N, C, H, W) and float32 on a CPU."""
    return cast(Tensor, _Depthwise.apply(x, conv.weight, conv.bias, conv))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = list(conv.stride), list(four_sides_of(conv)), list(conv.dilation)
        return F.conv2d(
            x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )  # fmt: skip

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x, _, _, grad_weight, _ = torch.ops.xception.separable_unit_backward(
            grad, None, None, grad, grad.new_empty(0), x, None, None, "none", weight, None,
            *ctx.geometry, ctx.needs_input_grad[0],
        )  # fmt: skip
        return (
            grad_x if ctx.needs_input_grad[0] else None,
            grad_weight,
            grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None,
            None,
        )
