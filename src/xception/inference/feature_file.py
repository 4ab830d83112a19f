"""Features of pictures in the files that other programs read, written while they come.

A row is written as soon as it is known, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from xception.errors import XceptionError

ROWS = 1024  # of a row group, which is held until it is full: 8 MB of 2048 features


def write_npy(
    rows: Iterable[tuple[str, Tensor]], features: BinaryIO, names: BinaryIO
) -> tuple[int, int]:
    """Write a float32 array (N, C) in NumPy's format, and the names as UTF-8 lines beside it.

    rows: names and features, float32 (C,) on the CPU; at least one
    features: new, and can be written anywhere in it: N is known at the end alone

    Line i of `names` belongs to row i: a line break within a name becomes U+FFFD. Returns (N, C).
    """
    first, rows = _peeked(rows)
    count, width = 0, len(first)
    _write_npy_header(features, count, width)
    start = features.tell()
    for name, row in rows:
        features.write(row.numpy().astype("<f4", copy=False).tobytes())
        names.write("\N{REPLACEMENT CHARACTER}".join(name.splitlines()).encode() + b"\n")
        count += 1
    features.seek(0)
    _write_npy_header(features, count, width)
    if features.tell() != start:
        raise RuntimeError("the header of a .npy file has another length for another N")
    return count, width


def _write_npy_header(file: BinaryIO, count: int, width: int) -> None:
    """NumPy leaves room in it for an N that grows, so that every N fits."""
    shape = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
    np.lib.format.write_array_header_1_0(file, shape)


def write_parquet(rows: Iterable[tuple[str, Tensor]], file: BinaryIO) -> tuple[int, int]:
    """Write a table of the columns path (string) and features (C float32 in each row).

    rows: as for `write_npy`. Returns (N, C). Needs pyarrow.
    """
    import pyarrow as pa
    from pyarrow import parquet

    first, remaining = _peeked(rows)
    count, width = 0, len(first)
    value = pa.field("element", pa.float32(), nullable=False)
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("features", pa.list_(value, width), nullable=False),
        ]
    )
    # no dictionary of the features: no two are alike
    with parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        while group := list(islice(remaining, ROWS)):
            names, features = zip(*group)
            values = pa.array(torch.stack(features).numpy().reshape(-1), pa.float32())
            columns: list[Any] = [
                pa.array(names, pa.string()),
                pa.FixedSizeListArray.from_arrays(values, type=schema.field("features").type),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += len(group)
    return count, width


def require_parquet(name: str) -> None:
    """Raises XceptionError, naming the file that is to be written, where pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise XceptionError(
            f'{name}: writing Parquet needs pyarrow: pip install "xception[hub]"'
        ) from None


def _peeked(rows: Iterable[tuple[str, Tensor]]) -> tuple[Tensor, Iterator[tuple[str, Tensor]]]:
    """The first features, and all rows again."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        raise ValueError("there are no rows, so their width is not known")
    return first[1], chain([first], iterator)
