"""The parts of batch normalization: statistics of a batch, running ones, scale and shift.

`torch.nn.BatchNorm2d` does them in one call; here they stand alone for the ways of computing it
that take the statistics elsewhere (`normalized`) or of more than one process (`SyncBatchNorm2d`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance a channel, (C,) each, of x (N, C, H, W); with gradients.

    At least float32, whatever x has. Zeros where x holds no pictures.
    """
    if x.numel() == 0:
        zeros = x.sum((0, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        return zeros, zeros
    if x.dtype in (torch.float32, torch.float64):
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return mean, var
    return _HalfStatistics.apply(x)


class _HalfStatistics(torch.autograd.Function):
    """Of a tensor in half precision, which alone is kept: no float32 copy waits for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        slope = grad_var * (2 / count)
        offset = torch.addcmul(grad_mean / count, mean, slope, value=-1)
        return torch.addcmul(offset[:, None, None], x, slope[:, None, None]).to(x.dtype)


@torch.no_grad()
def update_running_statistics(
    norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int | Tensor
) -> None:
    """Move `norm`'s running statistics as torch does: by momentum, or to the cumulative average.

    mean, var: (C,), the batch's; var biased. running_var takes the unbiased one.
    count: values a channel; a tensor where reading it would make the host wait for the device
    """
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    if momentum is None:  # an average over nobody knows how many: torch leaves it as it is
        return
    if isinstance(count, Tensor):
        var = var * (count / (count - 1).clamp(min=1))
        mean = torch.where(count > 0, mean, norm.running_mean)
        var = torch.where(count > 0, var, norm.running_var)
    elif count > 0:
        var = var * (count / max(count - 1, 1))
    else:
        return
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(var.to(norm.running_var.dtype), momentum)


def refuse_single_value(count: int, shape: torch.Size) -> None:
    """Raise ValueError, with torch's words, when training has one value a channel."""
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {shape}"
        )


def scale_and_shift(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """What `norm` does to a channel of this mean and variance: (C,) each, x * scale + shift."""
    scale = torch.rsqrt(var + norm.eps)
    if norm.weight is not None:
        scale = norm.weight * scale
    if norm.bias is None:
        return scale, -mean * scale
    return scale, torch.addcmul(norm.bias, mean, scale, value=-1)
