"""Keras's side of a comparison, for models as people build them: models in models."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xception.models import Classifier
from xception.weights import Parity, convert, save

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def layers() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")  # read once, when keras is first imported
    import keras

    return keras.layers


@pytest.fixture
def inner(tiny: Callable[..., Classifier], layers: Any, tmp_path: Path) -> Any:
    """A network of ours as a model of Keras, which ends in a softmax."""
    import keras

    save(tiny(), tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "m.keras", check=False)
    return keras.saving.load_model(tmp_path / "m.keras")


def parity_of(model: Any, path: Path) -> Parity:
    model.save(path)
    found = convert(path, path.with_name("back.safetensors")).parity
    assert isinstance(found, Parity), found
    return found


SCALINGS: dict[str, Callable[[Any], Any]] = {
    "outer.keras": lambda k: k.Rescaling([1 / 200, 1 / 210, 1 / 220], [-1.0, -0.9, -0.8]),
    "outer.h5": lambda k: k.Normalization(mean=[120, 110, 100.0], variance=[3000, 3e3, 2900.0]),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_values_enter_a_model_within_unrounded(
    inner: Any, layers: Any, tmp_path: Path, name: str
) -> None:
    """Rounding to float32 at the inner input would look like another function.

    The model within ends in a softmax.
    """
    import keras

    x = keras.Input((32, 32, 3))
    found = parity_of(keras.Model(x, inner(SCALINGS[name](layers)(x))), tmp_path / name)
    assert found.is_good and found.float64 < 1e-12 < found.largest


@pytest.mark.parametrize("ending", ["Activation", "Softmax and Dropout"])
def test_probabilities_are_undone_wherever_they_come_from(
    inner: Any, layers: Any, tmp_path: Path, ending: str
) -> None:
    import keras

    last = [layers.Activation("softmax")]
    if ending != "Activation":
        last = [layers.Softmax(), layers.Dropout(0.5)]
    x = keras.Input((32, 32, 3))
    y = keras.Model(inner.inputs, inner.layers[-2].output)(x)
    model = keras.Model(x, keras.Sequential([layers.Dense(3), *last])(y))
    found = parity_of(model, tmp_path / "outer.keras")
    assert found.is_good and found.largest > 1e-4


def test_preprocessing_written_as_arithmetic_is_rebuilt(inner: Any, tmp_path: Path) -> None:
    """Inside a model `preprocess_input` is saved as TrueDivide and Subtract: no layers."""
    import keras

    x = keras.Input((32, 32, 3))
    scaled = keras.applications.xception.preprocess_input(x)
    found = parity_of(keras.Model(x, inner(scaled)), tmp_path / "outer.keras")
    assert found.is_good and found.float64 < 1e-12 < found.largest
