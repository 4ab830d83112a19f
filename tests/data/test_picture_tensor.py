"""The evaluation pipeline equals torchvision's v2 on Pillow pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from xception.data.picture_tensor import GREY, fit, normalize, preprocess
from xception.models.preprocessing import Preprocessing

Noise = Callable[..., Image.Image]
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "lanczos", "box"]


def by_torchvision(picture: Image.Image, p: Preprocessing) -> torch.Tensor:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    mode = v2.InterpolationMode(p.interpolation)
    if p.resize == "crop":
        steps = [v2.Resize(round(p.size[0] / p.crop_fraction), mode), v2.CenterCrop(p.size)]
    else:
        steps = [v2.Resize(p.size, mode)]
    if p.channels == 1:
        steps.insert(0, v2.Grayscale(1))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(p.mean, p.std)]
    return v2.Compose(steps)(picture)  # type: ignore[no-any-return]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("size", [(50, 41), (41, 50), (24, 24), (7, 90), (300, 299)])
def test_equals_torchvision(
    noise: Noise, interpolation: str, resize: str, size: tuple[int, int]
) -> None:
    p = Preprocessing(
        size=(24, 24),
        resize=resize,
        crop_fraction=0.875,
        interpolation=interpolation,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    picture = noise(*size)
    result = preprocess(picture, p)
    assert result.dtype == torch.float32 and result.is_contiguous()
    torch.testing.assert_close(result, by_torchvision(picture, p), rtol=0, atol=1e-6)


def test_equals_torchvision_in_grey(noise: Noise) -> None:
    p = Preprocessing(size=(20, 20), channels=1, mean=(0.3,), std=(0.4,))
    result = preprocess(noise(31, 27), p)
    assert result.shape == (1, 20, 20)
    torch.testing.assert_close(result, by_torchvision(noise(31, 27), p), rtol=0, atol=1e-6)


def test_keras_scaling() -> None:
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 23)
    wanted = torch.tensor(np.asarray(picture) / 127.5 - 1).permute(2, 0, 1).float()
    result = preprocess(picture, Preprocessing(size=(2, 2)))
    torch.testing.assert_close(result, wanted)


def test_pad_keeps_the_whole_picture_in_the_middle() -> None:
    p = Preprocessing(size=(20, 20), resize="pad")
    result = np.asarray(fit(Image.new("RGB", (40, 20), (255, 0, 0)), p))
    assert (result[5:15] == (255, 0, 0)).all()
    assert (result[:5] == GREY).all() and (result[15:] == GREY).all()
    grey = Preprocessing(size=(20, 20), resize="pad", channels=1, mean=(0.5,), std=(0.5,))
    assert fit(Image.new("RGB", (20, 40)), grey).getpixel((0, 0)) == GREY


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 2)])
@pytest.mark.parametrize("target", [(16, 16), (12, 30)])
def test_extreme_pictures(
    noise: Noise, resize: str, size: tuple[int, int], target: tuple[int, int]
) -> None:
    p = Preprocessing(size=target, resize=resize, crop_fraction=0.9)
    assert preprocess(noise(*size), p).shape == (3, *target)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("across", [False, True])
def test_resizing_only_where_it_is_cropped_changes_nothing(
    noise: Noise, monkeypatch: pytest.MonkeyPatch, interpolation: str, across: bool
) -> None:
    picture = noise(5, 700, 3) if across else noise(700, 5, 3)
    p = Preprocessing(size=(16, 16), interpolation=interpolation)
    short = np.asarray(fit(picture, p)).astype(int)
    monkeypatch.setattr("xception.data.picture_tensor._EXTREME", 10**9)
    whole = np.asarray(fit(picture, p)).astype(int)
    difference = abs(short - whole)
    if interpolation in ("nearest", "box"):  # a rounded position may fall on the next pixel
        assert difference.mean() < 30
    else:  # Pillow may resize the other side first, and rounds between the two
        assert difference.mean() < 2 and difference.max() < 40


def test_normalize_a_batch() -> None:
    p = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    values = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    batch = normalize(values, p)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for one, row in zip(values, batch, strict=True):
        assert torch.equal(normalize(one, p), row)
