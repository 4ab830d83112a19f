"""Pictures of a comparison: the same every time, in the range of pictures, with forms in them."""

from __future__ import annotations

import pytest
import torch

from xception.models import Preprocessing
from xception.weights.parity_pictures import parity_pictures, scaled


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_they_are_pixels_and_always_the_same(channels: int) -> None:
    x = parity_pictures((40, 30), channels, 2)
    assert x.shape == (2, channels, 40, 30)
    assert torch.equal(x, x.round()) and 0 <= x.min() < 60 and 195 < x.max() <= 255
    assert torch.equal(x, parity_pictures((40, 30), channels, 2))


def test_they_are_smooth_but_for_edges_and_differ() -> None:
    x = parity_pictures((96, 96), 3, 2)
    assert (x[0] - x[1]).abs().mean() > 25
    assert (x[:, 0] - x[:, 1]).abs().mean() > 25  # colours
    steps = (x[..., 1:] - x[..., :-1]).abs()
    assert steps.median() < 20 and steps.max() > 100  # of noise the median is 75


def test_one_pixel() -> None:
    assert parity_pictures((1, 1), 3, 2).isfinite().all()


def test_they_are_scaled_by_channel() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = scaled(torch.full((1, 3, 2, 2), 255.0).double(), Preprocessing(mean=mean, std=std))
    assert x.dtype == torch.float64
    assert x[0, :, 0, 0].tolist() == [(1 - m) / s for m, s in zip(mean, std)]


def test_channels_that_no_picture_has_are_scaled_as_the_first() -> None:
    x = scaled(torch.zeros(1, 5, 2, 2).double(), Preprocessing(mean=(0.5, 0.1, 0.1)))
    assert (x == -1).all() and x.shape == (1, 5, 2, 2)
