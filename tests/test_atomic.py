"""Whole files or none."""

from __future__ import annotations

import os

import pytest

from xception.atomic import move_atomically, write_atomically


def test_written_whole_or_as_before(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")

    def fail(file):
        file.write(b"half")
        raise ValueError

    with pytest.raises(ValueError):
        write_atomically(path, fail)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]


def test_moved_in_place_of_another(tmp_path):
    temporary, path = tmp_path / "f.part", tmp_path / "f"
    temporary.write_bytes(b"new")
    path.write_bytes(b"old")
    move_atomically(temporary, path)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]
    with pytest.raises(FileNotFoundError):
        move_atomically(temporary, path)
    assert path.read_bytes() == b"new"
