"""`measured`: a tensor's statistics for a batch normalization that its readers apply.

For tensors that other operators made (the regular convolutions of a stem); `separable_unit` takes
the statistics of its own result itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xception.ops.eager import differentiable_gradients, is_ordinary
from xception.ops.kernels import address, can_use_kernels, required_kernels
from xception.ops.unit import kernel_shape, unit_gradients


def measured(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x again, and its mean and biased variance a channel over N, H and W.

    x: (N, C, H, W), floating, channels-last preferred; mean, var: (C,)

    Whoever reads x next reads the tensor that comes back: so the gradient that arrives there and
    that of the statistics meet in one pass over memory.
    """
    if x.numel() > 0 and can_use_kernels(x) and is_ordinary(x):
        return XceptionStatistics.apply(x.contiguous(memory_format=torch.channels_last))
    return _reference(x)


def _reference(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return x, mean, var


class XceptionStatistics(torch.autograd.Function):
    """A unit without any step: its y would be x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, squares = (x.new_empty(x.shape[1]) for _ in range(2))
        nothing = [0, 0, 0, 0, 0]  # scale, shift, depthwise, pointwise, y
        required_kernels("separable_unit", x).unit(
            kernel_shape(x, x, "none", None, (1, 1), (0, 0, 0, 0), (1, 1)),
            [address(x), *nothing, address(mean), address(squares)],
            torch.get_num_threads(),
        )
        ctx.save_for_backward(x, mean)
        ctx.set_materialize_grads(False)
        return x, mean, squares.div_(x.numel() // x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad_x: Any, grad_mean: Any, grad_var: Any) -> Tensor | None:
        x, mean = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the kernels have no second derivative
            arriving = (grad_x, grad_mean, grad_var)
            return differentiable_gradients(_reference, (x,), (True,), arriving)[0]
        if grad_mean is None and grad_var is None:
            return None if grad_x is None else grad_x
        if grad_x is None:
            grad_x = torch.zeros_like(x)
        return unit_gradients(
            grad_x, grad_mean, grad_var, x, mean, x, None, None, "none", None, None,
            [1, 1], [0, 0, 0, 0], [1, 1], True,
        )[0]  # fmt: skip
