"""A tensor whose batch normalization has not been applied yet, only worked out.

Batch normalization of a whole tensor is y * scale + shift with one scale and one shift a channel.
Whoever reads the tensor applies them in passing (`xception.ops.separable_unit`, `merge`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xception.nn.batch_statistics import (
    refuse_single_value,
    scale_and_shift,
    update_running_statistics,
)
from xception.nn.sync_batch_norm import SyncBatchNorm2d
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
        is_untouched(norm, nn.BatchNorm2d, SyncBatchNorm2d)
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
    running_var takes the unbiased variance), and a `SyncBatchNorm2d` takes the other processes'
    values in. In eval the running ones are used, mean and var are not read.
    Raises ValueError when training sees a single value a channel, as torch does.
    """
    if norm.training:
        own_count = raw.numel() // raw.shape[1]
        count: int | Tensor = own_count
        if isinstance(norm, SyncBatchNorm2d) and norm.is_shared():
            mean, var, count = norm.combined(mean, var, own_count, raw.shape)
        else:
            refuse_single_value(own_count, raw.shape)
        update_running_statistics(norm, mean, var, count)
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, var = norm.running_mean, norm.running_var
    return Normalized(raw, *scale_and_shift(norm, mean, var))
