"""Training transforms: what is drawn, and what is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from xception.data.picture_tensor import normalize, preprocess, to_tensor
from xception.data.transforms import Augmentation, evaluation_transform, train_transform
from xception.models.preprocessing import Preprocessing

Noise = Callable[..., Image.Image]
P = Preprocessing(size=(12, 12), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def test_nothing_random_by_default(noise: Noise) -> None:
    picture = noise(30, 20)
    assert torch.equal(train_transform(P, Augmentation())(picture), preprocess(picture, P))
    assert torch.equal(evaluation_transform(P)(picture), preprocess(picture, P))


@pytest.mark.parametrize(("edges", "mode"), [("black", "constant"), ("reflect", "reflect")])
def test_pad_crop_and_flip_equal_torchvision(noise: Noise, edges: str, mode: str) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    picture = noise(12, 12)
    augmentation = Augmentation(crop="pad", crop_padding=3, crop_edges=edges, flip=True)
    transform = train_transform(P, augmentation)
    padded = functional.pad(to_tensor(picture), [3, 3, 3, 3], padding_mode=mode)
    possible = {}
    for top in range(7):
        for left in range(7):
            crop = padded[:, top : top + 12, left : left + 12]
            possible[crop.contiguous().numpy().tobytes()] = (top, left, False)
            possible[functional.horizontal_flip(crop).contiguous().numpy().tobytes()] = (
                top,
                left,
                True,
            )
    prepared = transform.prepare(picture)
    before = prepared.clone()
    seen = set()
    for seed in range(1500):
        torch.manual_seed(seed)
        seen.add(possible[transform.augment(prepared).contiguous().numpy().tobytes()])
    assert len(seen) == 98  # every shift, flipped or not
    assert torch.equal(prepared, before)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": "pad", "crop_padding": 20},
        {"crop": "pad", "crop_padding": 40, "crop_edges": "reflect"},
        {"crop": "resized", "crop_scale": (0.3, 1.0)},
        {"erase": 1.0},
        {"color_jitter": 0.4},
        {"randaugment": 9},
        {"cutout": 5},
        {"crop": "pad", "flip": True, "randaugment": 30, "color_jitter": 1.0, "erase": 0.5},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_is_a_function_of_torchs_seed(
    noise: Noise, change: dict[str, object], channels: int
) -> None:
    pytest.importorskip("torchvision")
    p = Preprocessing(size=(12, 12), channels=channels, mean=(0.5,) * channels, std=(1,) * channels)
    transform = train_transform(p, Augmentation(**change))  # type: ignore[arg-type]
    prepared = transform.prepare(noise(25, 18))
    before = prepared.clone()
    results = []
    for seed in (1, 1, 2, 3, 4, 5, 6):
        torch.manual_seed(seed)
        result = transform.augment(prepared)
        assert result.shape == (channels, 12, 12) and result.dtype == torch.uint8
        results.append(result.clone())
    assert torch.equal(results[0], results[1])
    assert any(not torch.equal(results[0], other) for other in results[2:])
    assert torch.equal(prepared, before)  # a cached picture stays as it is
    assert transform(noise(25, 18)).dtype == torch.float32


def test_a_picture_of_one_pixel_has_no_edge_to_mirror_at(noise: Noise) -> None:
    augmentation = Augmentation(crop="pad", crop_padding=3, crop_edges="reflect")
    transform = train_transform(Preprocessing(size=(1, 1)), augmentation)
    prepared = transform.prepare(noise(1, 1))
    assert torch.equal(transform.augment(prepared), prepared)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_resized_crop_with_every_interpolation(noise: Noise, interpolation: str) -> None:
    pytest.importorskip("torchvision")
    p = Preprocessing(size=(9, 14), interpolation=interpolation)
    transform = train_transform(p, Augmentation(crop="resized"))
    for size in ((40, 30), (1, 1), (1, 500)):
        assert transform(noise(*size)).shape == (3, 9, 14)


def test_cutout_fills_with_the_mean_colour(noise: Noise) -> None:
    transform = train_transform(P, Augmentation(cutout=6))
    torch.manual_seed(0)
    changed = transform.augment(transform.prepare(noise(12, 12)))
    hole = (changed == torch.tensor([128, 102, 76], dtype=torch.uint8).view(3, 1, 1)).all(0)
    assert 9 <= int(hole.sum()) <= 36
    assert float(normalize(changed, P)[:, hole].abs().max()) < 0.01


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop", "random"),
        ("crop_padding", -1),
        ("crop_edges", "grey"),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.9, 0.1)),
        ("erase", 1.5),
        ("color_jitter", -0.1),
        ("randaugment", 31),
        ("cutout", -2),
    ],
)
def test_wrong_values_name_their_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"augmentation {name} must be"):
        Augmentation(**{name: value})  # type: ignore[arg-type]


def test_torchvision_is_not_imported_without_need() -> None:
    code = (
        "import sys, xception.data as d\n"
        "from xception.models.preprocessing import Preprocessing as P\n"
        "d.open_data('fashion-mnist-5k')\n"
        "t = d.train_transform(P(), d.Augmentation(crop='pad', flip=True, cutout=8))\n"
        "assert not {'torchvision', 'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
