"""What Keras models do to pictures before the network becomes preprocessing, exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xception.models import Preprocessing
from xception.weights.dialects.keras_import import recognise
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Before = Callable[[Any], list[Any]]
Read = Callable[..., tuple[Any, Imported]]


@pytest.fixture
def read(
    tiny_model: Callable[..., Any],
    keras: ModuleType,
    contents_of: Callable[[Path], FileContents],
    tmp_path: Path,
) -> Read:
    def head() -> list[Any]:
        return [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]

    def make(before: Before, **arguments: Any) -> tuple[Any, Imported]:
        model = tiny_model(head, lambda: before(keras), **arguments)
        model.save(tmp_path / "model.keras")
        return model, recognise(contents_of(tmp_path / "model.keras"))

    return make


def prepared(values: Tensor, preprocessing: Preprocessing) -> Tensor:
    """values: 0..255 (N, C, H, W) -> what the network sees."""
    mean, std = (
        torch.tensor(numbers, dtype=torch.float64).view(1, -1, 1, 1)
        for numbers in (preprocessing.mean, preprocessing.std)
    )
    return (values / 255 - mean) / std


def adapted(keras: ModuleType) -> Any:
    layer = keras.layers.Normalization()
    layer.build((None, 24, 20, 3))
    numbers = ([120.0, 110.0, 100.0], [3000.0, 4000.0, 5000.0])
    layer.set_weights([*map(np.array, numbers), np.array(9)])
    layer.finalize_state()
    return layer


SCALED: dict[str, Before] = {
    "rescaling": lambda keras: [keras.layers.Rescaling(1 / 127.5, offset=-1)],
    "two rescalings": lambda keras: [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Rescaling([1.0, 2.0, 4.0], offset=[0.0, -0.5, 0.25]),
    ],
    "preprocess_input": lambda keras: [keras.applications.xception.preprocess_input],
    "arithmetic": lambda keras: [
        lambda x: x / 255.0,
        lambda x: x - 0.4375,  # Keras rounds such numbers to float32
        lambda x: x * 4.0,
        lambda x: keras.ops.add(x, 0.5),
    ],
    "normalization with numbers": lambda keras: [
        keras.layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[3000.0, 4000.0, 5000.0])
    ],
    "normalization with one number": lambda keras: [
        keras.layers.Normalization(axis=None, mean=127.5, variance=127.5**2)
    ],
    "normalization adapted": lambda keras: [adapted(keras)],
}


@pytest.mark.parametrize("name", SCALED)
def test_scaling_layers(read: Read, keras_rows: Callable[[Any, Tensor], Tensor], name: str) -> None:
    theirs, imported = read(SCALED[name])
    model = imported.model
    values = torch.randint(0, 256, (2, 3, 24, 20)).double()
    found = model(prepared(values, model.preprocessing))
    expected = keras_rows(theirs, values)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert any("became the preprocessing" in choice for choice in imported.report.choices)
    assert not any("does not say how pictures are scaled" in c for c in imported.report.choices)
    if name in ("rescaling", "preprocess_input", "normalization with one number"):
        assert model.preprocessing.mean == model.preprocessing.std == (0.5, 0.5, 0.5)
    if name == "normalization adapted":
        assert len(imported.report.left_out) == 3
        assert {reason for _, reason in imported.report.left_out} == {"became the preprocessing"}


def test_random_layers_are_left_away(read: Read) -> None:
    def before(keras: ModuleType) -> list[Any]:
        k = keras.layers
        flips = keras.Sequential([k.RandomFlip("horizontal"), k.RandomRotation(0.1)])
        return [flips, k.RandomZoom(0.1), keras.applications.xception.preprocess_input]

    _, imported = read(before)
    said = "\n".join(imported.report.choices)
    for kind in ("RandomFlip", "RandomRotation", "RandomZoom"):
        assert f"({kind}) changes pictures in training alone: left away" in said
    assert imported.model.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "settings, resize, interpolation",
    [
        ({}, "squash", "bilinear"),
        ({"interpolation": "nearest"}, "squash", "nearest"),
        ({"crop_to_aspect_ratio": True}, "crop", "bilinear"),
        ({"pad_to_aspect_ratio": True, "interpolation": "bicubic"}, "pad", "bicubic"),
    ],
)
def test_a_resizing_layer(
    read: Read, settings: dict[str, Any], resize: str, interpolation: str
) -> None:
    _, imported = read(
        lambda keras: [keras.layers.Resizing(40, 36, **settings)], size=(None, None, 3)
    )
    preprocessing = imported.model.preprocessing
    assert preprocessing.size == (40, 36)
    assert (preprocessing.resize, preprocessing.interpolation) == (resize, interpolation)
    assert any("Resizing layer became" in choice for choice in imported.report.choices)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_without_any_layer_the_choices_are_told(read: Read, channels: int) -> None:
    _, imported = read(lambda keras: [], size=(None, None, channels))
    model = imported.model
    assert model.in_channels == channels
    assert model.preprocessing.channels == (1 if channels == 1 else 3)
    assert model.preprocessing.size == (32, 32) and model.preprocessing.resize == "squash"
    assert set(model.preprocessing.mean) == {0.5}
    said = "\n".join(imported.report.choices)
    assert "pictures of any size: 32x32" in said
    assert "does not say how pictures are brought to 32x32: squashed" in said
    assert "does not say how pictures are scaled: x / 127.5 - 1" in said
    assert ("its pictures have 4 channels" in said) == (channels == 4)


REFUSED: dict[str, tuple[Before, dict[str, Any], str]] = {
    "negatives": (lambda keras: [keras.layers.Rescaling(-1.0)], {}, "into negatives"),
    "from one": (lambda keras: [lambda x: 1.0 - x], {}, "in a way that preprocessing cannot"),
    "huge": (lambda keras: [keras.layers.Rescaling(1e308)] * 2, {}, "is used 2 times"),
    "huge numbers": (
        lambda keras: [keras.layers.Rescaling(1e308), keras.layers.Rescaling(1e308)],
        {},
        "numbers that are too large",
    ),
    "by zero": (lambda keras: [lambda x: x / 0.0], {}, "divides by zero"),
    "twice": (
        lambda keras: [keras.layers.Resizing(40, 40), keras.layers.Resizing(30, 30)],
        {},
        "resizes pictures a second time",
    ),
    "too small": (lambda keras: [], {"size": (12, 40, 3)}, "pictures of 12x40; the network here"),
    "too large": (
        lambda keras: [keras.layers.Resizing(10_000, 40)],
        {},
        "pictures of 10000x40; the network here",
    ),
    "a crop": (
        lambda keras: [keras.layers.CenterCrop(20, 20)],
        {},
        r"'center_crop.*' is a CenterCrop, which no network here has; save the model without it",
    ),
    "channels": (
        lambda keras: [keras.layers.Rescaling([1.0, 1.0, 1.0, 1.0])],
        {"size": (24, 20, 4)},
        "have 4 channels, its layers scale 4",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_preprocessing_cannot_say(read: Read, name: str) -> None:
    before, arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read(before, **arguments)
