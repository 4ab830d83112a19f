"""A tensor whose batch normalization has not been applied yet, only worked out.

Batch normalization of a whole tensor is y * scale + shift with one scale and one shift a channel.
Whoever reads the tensor applies them in passing (`xception.ops.separable_unit`, `merge`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xception.nn.untouched import is_untouched


@dataclass(frozen=True, slots=True)
class Normalized:
    """raw * scale + shift; raw (N, C, H, W), scale and shift (C,) or both None: raw as it is."""

    raw: Tensor
    scale: Tensor | None
    shift: Tensor | None


def can_normalize(norm: nn.Module) -> bool:
    """Whether `normalized` does what this module's own forward does."""
    return (
        is_untouched(norm, nn.BatchNorm2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.weight is not None
        and norm.bias is not None
        and norm.running_mean is not None
        and norm.running_var is not None
        and norm.num_batches_tracked is not None
        and norm.track_running_stats
        and norm.weight.dtype == torch.float32
    )


def normalized(norm: nn.BatchNorm2d, raw: Tensor, mean: Tensor, var: Tensor) -> Normalized:
    """`norm(raw)` not yet applied, given raw's mean and biased variance a channel.

    In training the running statistics move as torch's do (momentum None: cumulative average;
    running_var takes the unbiased variance). In eval they are used, mean and var are not read.
    Raises ValueError when training sees a single value a channel, as torch does.
    """
    if norm.training:
        _update_running(norm, raw, mean, var)
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, var = norm.running_mean, norm.running_var
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    return Normalized(raw, scale, torch.addcmul(norm.bias, mean, scale, value=-1))


@torch.no_grad()
def _update_running(norm: nn.BatchNorm2d, raw: Tensor, mean: Tensor, var: Tensor) -> None:
    count = raw.numel() // raw.shape[1]
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {raw.size()}"
        )
    if norm.running_mean is None or norm.running_var is None:
        return
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    assert momentum is not None
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(var * (count / (count - 1)), momentum)
