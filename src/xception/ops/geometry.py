"""Strides, dilations and padding as users write them, spelled out and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


def four_sides(padding: int | Sequence[int]) -> list[int]:
    """Spell padding out as [top, bottom, left, right]; raises ValueError for anything else."""
    values = [padding] if isinstance(padding, int) else list(padding)
    if len(values) not in (1, 2, 4) or not all(_is_whole(p, least=0) for p in values):
        raise ValueError(
            "padding must be an int, (height, width) or (top, bottom, left, right), none negative; "
            f"got {padding!r}"
        )
    if len(values) == 1:
        return values * 4
    if len(values) == 2:
        return [values[0], values[0], values[1], values[1]]
    return values


def two_sides(value: int | Sequence[int], name: str) -> list[int]:
    """Spell a stride or dilation out as [height, width]; raises ValueError for anything else."""
    values = [value, value] if isinstance(value, int) else list(value)
    if len(values) != 2 or not all(_is_whole(v, least=1) for v in values):
        raise ValueError(f"{name} must be an int or two, at least 1; got {value!r}")
    return values


def output_size(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Height and width that a window's places make of `x` (N, C, H, W); below 1: none fits."""
    height, width = (
        (x.shape[2 + i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1)
        // stride[i]
        + 1
        for i in range(2)
    )
    return height, width


def _is_whole(value: object, least: int) -> bool:
    """Whether it is an int of at least `least`, or stands for one while a graph is recorded."""
    if isinstance(value, Tensor):  # what `x.shape[2]` is under torch.jit.trace
        return _is_tracing() and value.dim() == 0
    return isinstance(value, int | torch.SymInt) and bool(value >= least)
