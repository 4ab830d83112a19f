"""Archives of Keras 3 (.keras): their parts are read, and a bad part gets one plain line."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xception.weights.files.contents import FileContents

h5py = pytest.importorskip("h5py")

CONFIG = {"class_name": "Functional", "config": {"name": "m", "layers": []}}
METADATA = {"keras_version": "3.3.3", "date_saved": "2024-05-15@12:16:32"}

Read = Callable[[Path], FileContents]
Refusal = Callable[[Path], str]


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


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_packed_or_not_leave_nothing_behind(
    keras_contents: Read,
    archive: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: int,
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    contents = keras_contents(archive(method))
    assert contents.config == CONFIG and contents.version == "3.3.3"
    assert {name: t.tolist() for name, t in contents.tensors.items()} == {
        "layers/dense/vars/0": [[0, 1, 2], [3, 4, 5]]
    }
    assert not list(folder.iterdir())


def test_infinite_bounds_in_a_configuration_are_read(
    keras_contents: Read, archive: Callable[..., Path]
) -> None:
    """Python writes them into JSON as it does NaN; Keras's ReLU(max_value=inf) brings them."""
    text = '{"class_name": "ReLU", "config": {"a": Infinity, "b": -Infinity, "c": NaN}}'
    config = keras_contents(archive(config__json=text)).config
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
    keras_refusal: Refusal, archive: Callable[..., Path], what: str, method: int
) -> None:
    changed, expected = PARTS[what]
    assert expected in keras_refusal(archive(method, **changed)).replace("'", "")


def test_an_archive_without_metadata_has_no_version(
    keras_contents: Read, archive: Callable[..., Path]
) -> None:
    assert keras_contents(archive(metadata__json=None)).version is None
    assert keras_contents(archive(metadata__json="[1]")).version is None
    assert keras_contents(archive(metadata__json='{"keras_version": 3}')).version is None


def test_a_changed_weight_in_an_archive_is_noticed(
    keras_refusal: Refusal, archive: Callable[..., Path]
) -> None:
    path = archive()
    content = path.read_bytes()
    five = np.float32(5).tobytes()
    assert content.count(five) == 1
    path.write_bytes(content.replace(five, np.float32(6).tobytes()))
    assert "does not fit its checksum" in keras_refusal(path)


def test_an_archive_cut_anywhere_is_refused(
    keras_refusal: Refusal, archive: Callable[..., Path]
) -> None:
    path = archive()
    content = path.read_bytes()
    for size in [2, 40, *range(100, len(content), len(content) // 12), len(content) - 1]:
        path.write_bytes(content[:size])
        assert "cut short" in keras_refusal(path)


def test_an_archive_of_thousands_of_files_is_refused(
    keras_refusal: Refusal, archive: Callable[..., Path]
) -> None:
    line = keras_refusal(archive(**{f"assets/{index}": "" for index in range(1000)}))
    assert "holds 1,003 files, more than the 1,000 allowed in a Keras archive" in line
