"""Tables of pictures: CSV, TSV, Parquet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xception.data.samples import DataSource
from xception.data.sources import open_data
from xception.errors import DataError, PictureError

Folder = Callable[..., Path]


@pytest.fixture
def root(class_folder: Folder) -> Path:
    return class_folder({"a": 4, "b": 4})


def opened(root: Path, text: str | bytes, name: str = "t.csv") -> DataSource:
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_data(path, val_fraction=0)


def message(root: Path, text: str | bytes, name: str = "t.csv") -> str:
    with pytest.raises(DataError) as caught:
        opened(root, text, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_csv_with_split_quotes_and_byte_order_mark(root: Path) -> None:
    text = '\ufeffPath,Label,Split\n"a/000.png","cat, small",train\nb/000.png,dog,train\n'
    source = opened(root, text + "\na/001.png,dog,valid\n")
    assert source.classes == ["cat, small", "dog"]
    assert source.counts()["val"] == {"cat, small": 0, "dog": 1}
    assert source.splits["train"].load(0).size == (8, 6)


@pytest.mark.parametrize("header", ["image,class", "filename,category", "FILE , target"])
def test_other_column_names(root: Path, header: str) -> None:
    assert len(opened(root, f"{header}\na/000.png,x\nb/000.png,y\n").splits["train"]) == 2


def test_tabs_semicolons_absolute_and_parent_paths(root: Path, class_folder: Folder) -> None:
    other = class_folder({"": 1}, "other")
    text = f"path\tlabel\n{other}/000.png\tx\n../other/000.png\ty\n"
    source = opened(root, text, "t.tsv")
    assert [source.splits["train"].load(i).size for i in range(2)] == [(8, 6)] * 2
    assert opened(root, "path;label\na/000.png;x\nb/000.png;y\n").classes == ["x", "y"]
    assert opened(root, "path,label\na\\000.png,x\nb\\000.png,y\n").splits["train"].load(0)


def test_numeric_labels_are_ordered_as_numbers(root: Path) -> None:
    text = "path,label\n" + "".join(f"a/000.png,{n}\n" for n in (10, 9, 2))
    assert opened(root, text).classes == ["2", "9", "10"]


def test_missing_and_odd_files_wait_until_they_are_read(root: Path) -> None:
    text = "path,label\na/000.png,x\nb/999.png,y\na,y\n/dev/zero,y\n"
    train = opened(root, text).splits["train"]
    wanted = {
        str(root / "b/999.png"): "does not exist",
        str(root / "a"): "is a folder, not a picture",
        "/dev/zero": "is not a plain file",
    }
    for i, name in enumerate(train.names):
        if name in wanted:
            with pytest.raises(PictureError) as caught:
                train.load(i)
            assert caught.value.reason == wanted.pop(name)
    assert not wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "the table is empty"),
        ("path,label\n", "the table has no rows"),
        ("a/000.png,x\nb/000.png,y\n", "has no column 'path' (columns: a/000.png, x)"),
        ("path,colour\na/000.png,x\n", "has no column 'label' (columns: path, colour)"),
        ("path,label\na/000.png,\n", "line 2 has an empty label"),
        ("path,label\n,x\n", "line 2 has an empty path"),
        ("path,label\na/000.png,x,y\n", "line 2 has 3 fields, the header has 2"),
        ("path,label,split\na/000.png,x,hold\n", "line 2 has split 'hold'"),
        ("path,label\na/000.png,x\n", "has only one class ('x')"),
        ("path,label\nq/1.png,x\nq/2.png,y\n", "none of its 2 files exist (first: "),
        ('path,label\n"a/000.png"x,y\n', "is not valid CSV"),
        ("path,label\nä/000.png,x\n".encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_tables_that_cannot_be_used(root: Path, text: str | bytes, wanted: str) -> None:
    assert wanted in message(root, text)


def test_validation_is_split_off_where_the_table_has_none(root: Path) -> None:
    rows = "".join(f"{c}/00{i}.png,{c}\n" for c in "ab" for i in range(4))
    (root / "t.csv").write_text("path,label\n" + rows)
    source = open_data(root / "t.csv", val_fraction=0.25)
    assert {name: len(samples) for name, samples in source.splits.items()} == {"train": 6, "val": 2}


def test_parquet(root: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = root / "t.parquet"
    columns = {"image": ["a/000.png", "b/000.png"], "label": [10, 9], "split": ["train", "train"]}
    parquet.write_table(arrow.table(columns), path)
    assert open_data(path, val_fraction=0).classes == ["9", "10"]
    parquet.write_table(arrow.table({**columns, "label": [1.0, 2.0]}), path)
    assert open_data(path, val_fraction=0).classes == ["1", "2"]
    parquet.write_table(arrow.table({**columns, "label": [None, "x"]}), path)
    with pytest.raises(DataError, match="row 1 has an empty label"):
        open_data(path)
    parquet.write_table(arrow.table({**columns, "image": [{"bytes": b"x"}] * 2}), path)
    with pytest.raises(DataError, match="column 'image' holds dict"):
        open_data(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_data(path)


def test_parquet_without_pyarrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert 'pip install "xception[hub]"' in message(root, b"x", "t.parquet")
