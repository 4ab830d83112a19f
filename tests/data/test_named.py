"""Data sets known by name."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from xception.data import named
from xception.data.idx import read_idx, write_idx
from xception.data.sources import open_data
from xception.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCEPTION_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_built_in() -> None:
    source = open_data("fashion-mnist-5k")
    assert len(source.classes) == 10 and source.classes[9] == "Ankle boot"
    assert {name: len(s) for name, s in source.splits.items()} == {
        "train": 4500,
        "val": 500,
        "test": 1000,
    }
    assert {name: set(by.values()) for name, by in source.counts().items()} == {
        "train": {450},
        "val": {50},
        "test": {100},
    }
    test = source.splits["test"]
    assert test.names[17] == "fashion-mnist-5k/test/17"
    assert test.load(17).mode == "RGB" and test.size(17) == (28, 28) == test.load(17).size
    assert (named.BUILT_IN / "LICENSE").is_file() and (named.BUILT_IN / "README.md").is_file()


def test_classes_in_a_models_order() -> None:
    backwards = list(named.FASHION_CLASSES)[::-1]
    source = open_data("fashion-mnist-5k", classes=backwards)
    plain = open_data("fashion-mnist-5k")
    assert source.classes == backwards
    assert [9 - label for label in source.splits["test"].labels] == plain.splits["test"].labels
    with pytest.raises(DataError, match="does not know its class 'T-shirt/top'"):
        open_data("fashion-mnist-5k", classes=["cat", "dog"])


def test_a_folder_goes_before_a_name(class_folder) -> None:  # type: ignore[no-untyped-def]
    class_folder({"../fashion-mnist-5k/cat": 1, "../fashion-mnist-5k/dog": 1})
    assert open_data("fashion-mnist-5k").classes == ["cat", "dog"]


def test_no_split_file_with_a_named_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split file does not go with"):
        open_data("cifar10", split_file=tmp_path / "s.csv")


def fashion_files(folder: Path, pictures: int = 20) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = np.arange(pictures, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        values = rng.integers(0, 256, (pictures, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", values)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)


def test_fashion_mnist_is_looked_for_on_disk(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(named, "SYSTEM_FASHION_MNIST", tmp_path / "nothing")
    fashion_files(root / "fashion-mnist")
    assert len(open_data("fashion-mnist").splits["test"]) == 20
    fashion_files(tmp_path / "system", pictures=30)
    monkeypatch.setattr(named, "SYSTEM_FASHION_MNIST", tmp_path / "system")
    assert len(open_data("fashion-mnist").splits["test"]) == 30


def test_idx_headers_are_checked(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x.gz"
    write_idx(path, values)
    assert (read_idx(path, 3) == values).all()
    plain = tmp_path / "x"
    header = bytes((0, 0, 8, 1, 0, 0, 0, 3))
    for data, words in [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\1" + header[4:], "not an IDX file"),
        (header + b"ab", "claims 3 bytes but it holds 2"),
        (header + b"abcd", "claims 3 bytes but it holds more"),
        (bytes((0, 0, 8, 1, 255, 255, 255, 255)), "header claims 4,294,967,295 bytes"),
    ]:
        plain.write_bytes(data)
        with pytest.raises(DataError, match=words):
            read_idx(plain, 1)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(path, 3)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "none", 3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_cifar_is_fetched(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    folder, url = server
    rng = np.random.default_rng(0)
    files = {"batches.meta": {"label_names": ["cat", "dog"]}}
    for name in ("data_batch_1", "test_batch"):
        data = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        files[name] = {"data": data, "labels": [i % 2 for i in range(10)]}
    sums = {}
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            data = pickle.dumps(content)
            sums[name] = hashlib.md5(data).hexdigest()
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "url", url + "cifar.tar.gz")
    monkeypatch.setattr(kind, "filename", "cifar.tar.gz")
    tgz = hashlib.md5((folder / "cifar.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "tgz_md5", tgz)
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(kind, "meta", meta)
    source = open_data("cifar10", val_fraction=0.2)
    assert source.classes == ["cat", "dog"]
    assert {name: len(s) for name, s in source.splits.items()} == {"train": 8, "val": 2, "test": 10}
    assert source.splits["test"].load(3).size == (32, 32)


def test_what_cannot_be_fetched_says_what_to_put_where(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    _, url = server
    monkeypatch.setattr(datasets.CIFAR100, "url", url + "gone.tar.gz")
    with pytest.raises(DataError, match=f"put cifar-100-python.tar.gz from .* into {root}"):
        open_data("cifar100")
    monkeypatch.setattr(named, "SYSTEM_FASHION_MNIST", tmp_path / "nothing")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [url])
    with pytest.raises(DataError, match="install the Debian package dataset-fashion-mnist"):
        open_data("fashion-mnist")
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar"):
        open_data("imagenet")


def test_imagenet_unpacked_with_and_without_names(root: Path, class_folder) -> None:  # type: ignore[no-untyped-def]
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    numbers = {"n01": ("crane", "bird"), "n02": ("crane",), "n03": ("tench", "Tinca tinca")}
    class_folder({f"../data/imagenet/{part}/{n}": 2 for part in ("train", "val") for n in numbers})
    assert open_data("imagenet").classes == ["n01", "n02", "n03"]
    torch.save((numbers, []), root / "imagenet" / "meta.bin")
    source = open_data("imagenet")
    assert source.classes == ["crane (n01)", "crane (n02)", "tench"]
    assert {name: len(s) for name, s in source.splits.items()} == {"train": 6, "val": 6}
