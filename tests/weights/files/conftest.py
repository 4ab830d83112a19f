"""Files of each kind, what the readers find in them, and the one line of a refusal."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xception.weights.files.contents import FileContents
from xception.weights.files.hdf5 import Hdf5Contents, read_hdf5
from xception.weights.files.keras_file import read_keras_archive, read_keras_h5
from xception.weights.files.pickle_reader import MAX_OBJECT_BYTES, Pickle, read_pickle
from xception.weights.files.torch_file import read_torch_file

# ---------------------------------------------------------------- pickles


@pytest.fixture(scope="session")
def pickle_contents() -> Callable[[bytes], Pickle]:
    """pickle_contents(content) -> what a pickle holds, as data."""

    def read(content: bytes) -> Pickle:
        return read_pickle(io.BytesIO(content), len(content))

    return read


@pytest.fixture(scope="session")
def pickle_refusal() -> Callable[..., str]:
    """pickle_refusal(content, object_bytes) -> the one line with which a pickle is refused."""

    def refused(content: bytes, object_bytes: int = MAX_OBJECT_BYTES) -> str:
        with pytest.raises(ValueError) as caught:
            read_pickle(io.BytesIO(content), len(content), object_bytes)
        line = str(caught.value)
        assert "\n" not in line and len(line) < 400
        return line

    return refused


# ---------------------------------------------------------------- files of torch.save


@pytest.fixture(params=["zip", "sequence"])
def form(request: pytest.FixtureRequest) -> str:
    """Each format of torch.save: a zip archive, and the older sequence of pickles and storages."""
    found: str = request.param
    return found


@pytest.fixture(scope="session")
def saved() -> Callable[..., bytes]:
    """saved(value, form, **options of torch.save) -> the content of a torch file."""

    def save(value: Any, form: str = "zip", **options: Any) -> bytes:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes without source code
            torch.save(value, buffer, _use_new_zipfile_serialization=form == "zip", **options)
        return buffer.getvalue()

    return save


@pytest.fixture(scope="session")
def torch_archive() -> Callable[..., bytes]:
    """torch_archive(pickled, numbers, **others) -> a torch file by hand.

    pickled: the pickle of what is saved
    numbers: the storages' bytes by key; one of 40 zero bytes where they are not given
    others: further members by name
    """

    def write(pickled: bytes, numbers: dict[str, bytes] | None = None, **others: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a/data.pkl", pickled)
            for key, data in (numbers or {"0": bytes(40)}).items():
                archive.writestr(f"a/data/{key}", data)
            for name, data in others.items():
                archive.writestr(f"a/{name}", data)
        return buffer.getvalue()

    return write


@pytest.fixture(scope="session")
def torch_contents() -> Callable[[bytes], FileContents]:
    """torch_contents(content) -> what is read from a torch file."""

    def read(content: bytes) -> FileContents:
        return read_torch_file(io.BytesIO(content), len(content))

    return read


@pytest.fixture(scope="session")
def torch_refusal(torch_contents: Callable[[bytes], FileContents]) -> Callable[[bytes], str]:
    """torch_refusal(content) -> the one line with which a torch file is refused."""

    def refused(content: bytes) -> str:
        with pytest.raises(ValueError) as caught:
            torch_contents(content)
        line = str(caught.value)
        assert "\n" not in line and len(line) < 400
        return line

    return refused


@pytest.fixture(scope="session")
def same_bits() -> Callable[[dict[str, Tensor], dict[str, Tensor]], bool]:
    """same_bits(found, wanted) -> whether names, their order, dtypes, shapes and bits are equal."""

    def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
        return list(found) == list(wanted) and all(
            found[name].dtype == value.dtype
            and found[name].shape == value.shape
            and found[name].reshape(-1).view(torch.uint8).equal(value.reshape(-1).view(torch.uint8))
            for name, value in wanted.items()
        )

    return same


@pytest.fixture(scope="session")
def network() -> Callable[[], nn.Sequential]:
    """network() -> convolution, batch norm with changed statistics, nested blocks, shared layer."""

    def make() -> nn.Sequential:
        torch.manual_seed(3)
        shared = nn.Linear(4, 4)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.Sequential(shared, nn.ReLU(), nn.Sequential(nn.Dropout(), shared)),
            nn.Linear(4, 2),
        )
        for value in model.state_dict().values():
            value.normal_() if value.is_floating_point() else value.fill_(7)
        return model

    return make


# ---------------------------------------------------------------- HDF5


@pytest.fixture
def h5_path(tmp_path: Path) -> Path:
    """Where a test writes its file."""
    return tmp_path / "weights.h5"


@pytest.fixture
def good_h5(h5_path: Path) -> Path:
    """A small file that is read."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(h5_path, "w") as file:
        file["layers/conv/vars/0"] = np.arange(12, dtype="f4").reshape(3, 4)
        file["layers/conv/vars/1"] = np.arange(4, dtype="f4")
        file["layers/conv"].attrs["name"] = "first"
    return h5_path


@pytest.fixture(scope="session")
def h5_contents() -> Callable[..., Hdf5Contents]:
    """h5_contents(path, size, offset) -> what is read from an HDF5 file, or from a part of one."""

    def read(path: Path, **arguments: Any) -> Hdf5Contents:
        with path.open("rb") as file:
            return read_hdf5(file, arguments.pop("size", path.stat().st_size), **arguments)

    return read


@pytest.fixture(scope="session")
def h5_refusal(h5_contents: Callable[..., Hdf5Contents]) -> Callable[..., str]:
    """h5_refusal(path, size, offset) -> the one line with which it is refused."""

    def refused(path: Path, **arguments: Any) -> str:
        with pytest.raises(ValueError) as caught:
            h5_contents(path, **arguments)
        line = str(caught.value)
        assert line.isprintable() and len(line) < 700
        return line

    return refused


# ---------------------------------------------------------------- Keras


@pytest.fixture(scope="session")
def keras_contents() -> Callable[[Path], FileContents]:
    """keras_contents(path) -> what is read from a Keras file, an archive or HDF5."""

    def read(path: Path) -> FileContents:
        with path.open("rb") as file:
            reader = read_keras_archive if file.read(2) == b"PK" else read_keras_h5
            return reader(file, path.stat().st_size)

    return read


@pytest.fixture(scope="session")
def keras_refusal(keras_contents: Callable[[Path], FileContents]) -> Callable[[Path], str]:
    """keras_refusal(path) -> the one line with which it is refused."""

    def refused(path: Path) -> str:
        with pytest.raises(ValueError) as caught:
            keras_contents(path)
        line = str(caught.value)
        assert line.isprintable() and len(line) < 800
        return line

    return refused
