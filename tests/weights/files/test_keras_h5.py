"""Keras files in HDF5: weights in the order of their lists, and wrong lists get one plain line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xception.weights.files.contents import FileContents

h5py = pytest.importorskip("h5py")

Read = Callable[[Path], FileContents]
Refusal = Callable[[Path], str]


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., Path]:
    """listed(change, root) -> an .h5 of two layers, changed before it is closed."""

    def write(change: Callable[[Any], object] = lambda file: None, root: str = "/") -> Path:
        path = tmp_path / "model.h5"
        with h5py.File(path, "w") as file:
            group = file.require_group(root)
            group.attrs["layer_names"] = np.asarray([b"second", b"first", b"none"])
            group.attrs["backend"] = np.bytes_("tensorflow")
            group.attrs["keras_version"] = np.bytes_("2.2.4")
            for index, name in enumerate(("first", "second")):
                layer = group.create_group(name)
                layer.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
                layer[f"{name}/kernel:0"] = np.full((2, 3), index, "f4")
                layer[f"{name}/bias:0"] = np.full(3, index, "f4")
            group.create_group("none").attrs["weight_names"] = []
            change(file)
        return path

    return write


NAMES = ["second/second/kernel:0", "second/second/bias:0", "first/first/kernel:0",
         "first/first/bias:0"]  # fmt: skip


@pytest.mark.parametrize("root", ["/", "model_weights"])
def test_keras_2_with_and_without_configuration(
    keras_contents: Read, listed: Callable[..., Path], root: str
) -> None:
    contents = keras_contents(listed(root=root))
    assert contents.kind == "keras h5" and contents.config is None and contents.version == "2.2.4"
    assert list(contents.tensors) == NAMES
    assert contents.tensors["second/second/bias:0"].tolist() == [1, 1, 1]
    config = {"class_name": "Functional", "config": {"name": "m", "layers": []}}
    whole = keras_contents(listed(lambda f: f.attrs.update(model_config=json.dumps(config)), root))
    assert whole.config == config and list(whole.tensors) == NAMES


def test_long_lists_of_layers_are_split_over_attributes(
    keras_contents: Read, tmp_path: Path
) -> None:
    path = tmp_path / "model.h5"
    names = [f"a_layer_{index}" for index in range(230)]
    with h5py.File(path, "w") as file:
        for part in range(3):
            mine = names[100 * part : 100 * part + 100]
            file.attrs[f"layer_names{part}"] = np.asarray([name.encode() for name in mine])
        for index, name in enumerate(names):
            group = file.create_group(name)
            group.attrs["weight_names0"] = [b"k"]
            group.attrs["weight_names1"] = [b"b"]
            group["k"], group["b"] = np.float32(index), np.float32(-index)
    tensors = keras_contents(path).tensors
    assert list(tensors) == [f"{name}/{weight}" for name in names for weight in "kb"]
    assert tensors["a_layer_229/b"] == -229


def test_an_empty_list_is_whole(keras_contents: Read, listed: Callable[..., Path]) -> None:
    """Parts beside it are none of its, as in Keras."""

    def change(file: Any) -> None:
        file["none"].attrs["weight_names0"] = ["x"]
        file["none"].attrs["weight_names1"] = ["x"]

    assert list(keras_contents(listed(change)).tensors) == NAMES


def test_weights_of_the_model_itself_come_last(
    keras_contents: Read, listed: Callable[..., Path]
) -> None:
    def change(file: Any) -> None:
        group = file["model_weights"].create_group("top_level_model_weights")
        group.attrs["weight_names"] = ["scale"]
        group["scale"] = np.float32(3)
        file["optimizer_weights/iterations"] = 5

    contents = keras_contents(listed(change, "model_weights"))
    assert list(contents.tensors) == [*NAMES, "top_level_model_weights/scale"]


def test_paths_of_early_versions_stay_as_they_are(keras_contents: Read, tmp_path: Path) -> None:
    path = tmp_path / "old.weights.h5"
    with h5py.File(path, "w") as file:
        file["_layer_checkpoint_dependencies/conv2d/vars/0"] = np.ones(2, "f4")
        file["vars/0"] = np.ones(1, "f4")
    contents = keras_contents(path)
    assert contents.kind == "keras weights"
    assert list(contents.tensors) == ["_layer_checkpoint_dependencies/conv2d/vars/0", "vars/0"]


# ---------------------------------------------------------------- what is refused


def rename_listed(name: bytes) -> Callable[[Any], None]:
    return lambda file: file.attrs.update(layer_names=np.asarray([name, b"second", b"none"]))


LISTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a layer that is not there": (rename_listed(b"third"), "lists the layer 'third'"),
    "a layer outside": (rename_listed(b"../etc"), "lists the layer '../etc'"),
    "the root as a layer": (rename_listed(b""), "lists the layer ''"),
    "a layer twice": (rename_listed(b"second"), "lists a layer twice"),
    "a layer less": (
        lambda file: file.attrs.update(layer_names=np.asarray([b"second"])),
        "holds 'first/first/bias:0', which belongs to none of the layers",
    ),
    "text instead of a list": (
        lambda file: file.attrs.update(layer_names="second"),
        "its layer_names is no list",
    ),
    "numbers instead of a list": (
        lambda file: file.attrs.update(layer_names=np.ones(2)),
        "layer_names of / that is no text",
    ),
    "a layer without a list": (
        lambda file: file["first"].attrs.__delitem__("weight_names"),
        "lists the layer 'first', whose weights are not listed",
    ),
    "a weight that is not there": (
        lambda file: file["first"].attrs.update(weight_names=["x"]),
        "lists the weight 'first/x', which is not there",
    ),
    "a weight twice": (
        lambda file: file["first"].attrs.update(weight_names=["first/bias:0"] * 2),
        "lists the weight 'first/first/bias:0' twice",
    ),
    "a weight of another layer": (
        lambda file: file["first"].attrs.update(weight_names=["../second/second/bias:0"]),
        "which is not there",
    ),
    "a weight by its full path": (
        lambda file: file["first"].attrs.update(weight_names=["/first/first/bias:0"]),
        "which is not there",
    ),
    "a bad configuration": (
        lambda file: file.attrs.update(model_config="{"),
        "model_config is no valid JSON",
    ),
    "a list as configuration": (
        lambda file: file.attrs.update(model_config=["{}"]),
        "model_config is no text",
    ),
    "an external link": (
        lambda file: file.__setitem__("third", h5py.ExternalLink("/etc/passwd", "/")),
        "an external link",
    ),
}


@pytest.mark.parametrize("what", LISTS)
def test_wrong_listings_are_refused(
    keras_refusal: Refusal, listed: Callable[..., Path], what: str
) -> None:
    change, expected = LISTS[what]
    assert expected in keras_refusal(listed(change))


def test_hdf5_of_something_else_is_refused(keras_refusal: Refusal, tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["temperatures"] = np.ones(5)
    assert "neither a list of layers (layer_names) nor variables" in keras_refusal(path)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.zeros(0)
    assert "holds no weights" in keras_refusal(path)
