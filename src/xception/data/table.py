"""A table of pictures: CSV, TSV or Parquet with the columns path, label and perhaps split."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from xception.data.listing import SPLIT_NAMES, ListedPicture, Listing, same_text
from xception.data.wording import path_text
from xception.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")

_COLUMNS = {  # what a column may be called
    "path": ("path", "image", "file", "filename", "filepath", "file_path", "image_path", "picture"),
    "label": ("label", "class", "category", "target", "class_name", "label_name"),
    "split": ("split", "set", "subset", "partition"),
}


def list_table(path: Path) -> Listing:
    """List the pictures of a table; relative paths start at the table's folder.

    The files themselves are not opened: one that is missing shows when it is read or checked.

    Raises:
        DataError: the table cannot be read, lacks a column, has an empty path or label, an unknown
            split, or none of its files exist.
    """
    listing = Listing(name=path_text(path))
    rows = _table_rows(path, required=("path", "label"))
    base = path.parent
    for line, picture, label, split in rows:
        if not picture or not label:
            empty = "label" if picture else "path"
            raise DataError(f"{listing.name}: {line} has an empty {empty}; fill or remove it")
        key = picture.replace("\\", "/") if os.sep == "/" and "/" not in picture else picture
        listing.pictures.append(
            ListedPicture(
                str(base / key), same_text(label), _split_of(listing.name, line, split), key
            )
        )
    if not listing.pictures:
        raise DataError(f"{listing.name}: the table has no rows; give one for each picture")
    if not any(os.path.lexists(picture.path) for picture in listing.pictures):
        first = listing.pictures[0]
        raise DataError(
            f"{listing.name}: none of its {len(listing.pictures)} files exist (first: "
            f"{first.path}); paths must be absolute or relative to {path_text(base)}"
        )
    return listing


def read_split_file(path: Path) -> dict[str, str]:
    """Split ("train", "val" or "test") by picture path, from a table with columns path and split.

    Raises DataError as `list_table` does.
    """
    if not path.is_file():
        raise DataError(f"{path_text(path)}: the split file does not exist")
    splits: dict[str, str] = {}
    for line, picture, _, split in _table_rows(path, required=("path", "split")):
        found = _split_of(path_text(path), line, split)
        assert found is not None  # the column is there
        splits[same_text(picture)] = found
    return splits


_Row = tuple[str, str, str, "str | None"]  # where (for messages), path, label, split


def _table_rows(path: Path, required: Sequence[str]) -> Iterable[_Row]:
    if path.suffix.lower() == ".parquet":
        return _parquet_rows(path, required)
    return _csv_rows(path, required)


def _csv_rows(path: Path, required: Sequence[str]) -> list[_Row]:
    name = path_text(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header_line = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header_line.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, None)
            if header is None:
                raise DataError(f"{name}: the table is empty; its first line names the columns")
            places = _places(name, header, required)
            rows: list[_Row] = []
            for row in reader:
                if not any(row):
                    continue
                line = f"line {reader.line_num}"
                if len(row) != len(header):
                    raise DataError(
                        f"{name}: {line} has {len(row)} fields, the header has {len(header)}; "
                        "put quotes around a field that holds the separator"
                    )
                rows.append((line, *(_field(row, place) for place in places)))  # type: ignore[arg-type]
            return rows
    except UnicodeDecodeError:
        raise DataError(f"{name}: is not UTF-8 text; save the table as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num} is not valid CSV ({error})") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from None


def _field(row: Sequence[str], place: int | None) -> str | None:
    return None if place is None else row[place].strip()


def _parquet_rows(path: Path, required: Sequence[str]) -> list[_Row]:
    name = path_text(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f'{name}: reading Parquet needs pyarrow: pip install "xception[hub]"'
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            header = file.schema_arrow.names
            places = _places(name, header, required)
            used = [header[place] for place in places if place is not None]
            table = file.read(columns=used)
    except (OSError, pyarrow.ArrowException) as error:
        words = " ".join(str(error).split())[:120]
        raise DataError(f"{name}: cannot be read as Parquet ({words})") from None
    columns = [
        _texts(name, header[place], table.column(header[place]).to_pylist())
        if place is not None
        else [None] * table.num_rows
        for place in places
    ]
    rows = zip(*columns, strict=True)
    return [(f"row {number}", *row) for number, row in enumerate(rows, start=1)]


def _texts(name: str, column: str, values: Sequence[object]) -> list[str]:
    """Text, or whole numbers as text; an empty cell becomes ""."""
    texts: list[str] = []
    for value in values:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas turns a column of integers with a gap into floats
        if value is None or value != value:
            texts.append("")
        elif isinstance(value, (str, int)):
            texts.append(str(value).strip())
        else:
            raise DataError(
                f"{name}: column {column!r} holds {type(value).__name__}; it must hold text or "
                "whole numbers"
            )
    return texts


def _places(
    name: str, header: Sequence[str], required: Sequence[str]
) -> tuple[int | None, int | None, int | None]:
    """Positions of path, label and split among the columns."""
    lower = [column.strip().lower() for column in header]
    found: dict[str, int | None] = {}
    for wanted, names in _COLUMNS.items():
        found[wanted] = next((lower.index(n) for n in names if n in lower), None)
        if found[wanted] is None and wanted in required:
            raise DataError(
                f"{name}: has no column {wanted!r} (columns: {', '.join(header)}); the first line "
                f"must name the columns {', '.join(required)}"
            )
    return found["path"], found["label"], found["split"]


def _split_of(name: str, line: str, split: str | None) -> str | None:
    if split is None:
        return None
    known = SPLIT_NAMES.get(split.lower())
    if known is None:
        raise DataError(f"{name}: {line} has split {split!r}; it must be one of train, val, test")
    return known
