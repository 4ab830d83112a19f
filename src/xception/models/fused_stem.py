"""The fused way through the stem and the first block: see `fused_block`.

The stem's convolutions are torch's. Their normalizations and ReLUs are
folded into the next reader: for the last one that is the first block itself.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from xception.models.block import XceptionBlock
from xception.models.fused_block import can_fuse, fused
from xception.nn import Normalized, can_normalize, is_untouched, normalized
from xception.ops import can_use_kernels, conv2d, measured, merge


def can_fuse_start(stem: nn.Module, block: nn.Module, x: Tensor) -> bool:
    """Whether `fused_start` computes `block(stem(x))`."""
    return (
        can_use_kernels(x)
        and is_untouched(stem, nn.Sequential)
        and _has_whole_layers(stem)
        and all(
            can_normalize(norm) and is_untouched(act, nn.ReLU) for _, norm, act in _layers(stem)
        )
        and is_untouched(block, XceptionBlock)
        and isinstance(block, XceptionBlock)
        and isinstance(block.skip, nn.Sequential | None)
        and can_fuse(block.units, block.pool, block.skip, x)
    )


def fused_start(stem: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    """The block's output; only where `can_fuse_start` says so."""
    y = Normalized(x, None, None)
    for conv, norm, _ in _layers(stem):
        if y.scale is not None and y.shift is not None:
            x = merge(y.raw, y.scale, y.shift, activation="relu")
        raw = _convolved(conv, x).contiguous(memory_format=torch.channels_last)
        empty = raw.new_empty(0)
        raw, mean, var = measured(raw) if norm.training else (raw, empty, empty)
        y = normalized(cast(nn.BatchNorm2d, norm), raw, mean, var)
    first = cast(XceptionBlock, block)
    return fused(first.units, first.pool, first.skip, y, "relu")


def _convolved(conv: nn.Module, x: Tensor) -> Tensor:
    if not (
        is_untouched(conv, nn.Conv2d)
        and conv.bias is None
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and isinstance(conv.padding, tuple)
    ):
        return cast(Tensor, conv(x))
    return conv2d(
        x,
        conv.weight,
        stride=cast("tuple[int, int]", conv.stride),
        padding=cast("tuple[int, int]", conv.padding),
    )


def _has_whole_layers(stem: nn.Module) -> bool:
    count = len(cast(nn.Sequential, stem))
    return count > 0 and count % 3 == 0


def _layers(stem: nn.Module) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
    """Convolution, normalization and activation of each layer."""
    parts = list(stem.children())
    return list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
