"""Made-up pictures that a comparison of two libraries looks at.

Noise would not do: nothing in it has a form, and of a trained network's features nearly all stay
at zero. Coloured waves with edges between them bring to life about as many as photographs do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xception.models import Preprocessing

SEED = 0
_WAVES = 4  # in each channel
_MOST_PERIODS = 6.0  # of a wave, from one side of the picture to the other


def parity_pictures(size: tuple[int, int], channels: int, count: int) -> Tensor:
    """float64 (count, channels, height, width), whole numbers in 0..255; always the same ones."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (count, channels, *size)
    first, second = _waves(shape, generator), _waves(shape, generator)
    where = _waves((count, 1, *size), generator) > 0.5
    return (torch.where(where, first, second) * 255).round()


def scaled(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """float64 (N, C, H, W) in 0..255 -> the same as the preprocessing scales it.

    Where there are neither 1 nor 3 channels, which no picture has, all are scaled as the first.
    """
    channels = pictures.shape[1]
    mean, std = (
        torch.tensor(v if len(v) == channels else v[:1], dtype=torch.float64)[:, None, None]
        for v in (preprocessing.mean, preprocessing.std)
    )
    return (pictures / 255 - mean) / std


def _waves(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Sums of a few plane waves, float64 (N, C, H, W) in 0..1."""
    count, channels, height, width = shape

    def uniform(low: float, high: float) -> Tensor:
        values = torch.rand(_WAVES, count, channels, 1, 1, generator=generator, dtype=torch.float64)
        return low + (high - low) * values

    y = torch.linspace(0, 1, height, dtype=torch.float64)[:, None]
    x = torch.linspace(0, 1, width, dtype=torch.float64)
    down, across = (uniform(-_MOST_PERIODS, _MOST_PERIODS) for _ in range(2))
    periods = down * y + across * x + uniform(0, 1)
    waves = (uniform(0, 1) * torch.sin(2 * math.pi * periods)).sum(0)
    return (waves / waves.abs().amax((2, 3), keepdim=True) + 1) / 2
