"""What is written of features reads back the same, row by row."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from xception.inference.feature_file import write_npy, write_parquet


@pytest.mark.parametrize("count", [1, 9, 10, 12_345])
def test_npy_is_numpys_format_for_any_number_of_rows(count: int) -> None:
    """The header, which comes first, is written again when the number is known."""
    expected = np.random.default_rng(2).standard_normal((count, 3)).astype(np.float32)
    features, names = io.BytesIO(), io.BytesIO()
    rows = ((f"{i}.png", torch.from_numpy(row)) for i, row in enumerate(expected))
    assert write_npy(rows, features, names) == (count, 3)
    features.seek(0)
    loaded = np.load(features)
    assert loaded.dtype == np.float32 and loaded.flags.c_contiguous
    assert np.array_equal(loaded, expected) and not features.read()
    assert names.getvalue().decode() == "".join(f"{i}.png\n" for i in range(count))


def test_a_line_break_within_a_name_makes_no_second_line() -> None:
    names = io.BytesIO()
    rows = [("a\nb\u2028c.png", torch.zeros(1)), ("ä.png", torch.zeros(1))]
    write_npy(rows, io.BytesIO(), names)
    assert names.getvalue().decode().splitlines() == ["a\ufffdb\ufffdc.png", "ä.png"]


@pytest.mark.parametrize("count", [1, 1024, 2500])
def test_parquet_has_a_row_a_picture(count: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = np.random.default_rng(2).standard_normal((count, 3)).astype(np.float32)
    file = io.BytesIO()
    rows = ((f"ä\n{i}.png", torch.from_numpy(row)) for i, row in enumerate(expected))
    assert write_parquet(rows, file) == (count, 3)
    file.seek(0)
    table = parquet.read_table(file)
    assert table.column_names == ["path", "features"]
    assert table.column("path").to_pylist() == [f"ä\n{i}.png" for i in range(count)]
    assert str(table.schema.field("features").type).startswith("fixed_size_list<element: float")
    flat = table.column("features").combine_chunks().flatten().to_numpy()
    assert np.array_equal(flat.reshape(count, 3), expected)


def test_no_rows_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="no rows"):
        write_npy([], io.BytesIO(), io.BytesIO())
