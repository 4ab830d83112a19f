from __future__ import annotations

import os
from pathlib import Path

import pytest

from xception.cli.output import writable_file, writable_folder, write_text
from xception.errors import UsageError, XceptionError


def test_without_a_path_the_screen(capsys):
    write_text(None, lambda file: print("hello", file=file))
    assert capsys.readouterr().out == "hello\n"


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, lambda file: print("ä", file=file))
    assert path.read_bytes() == "ä\n".encode()

    def fail(file):
        file.write("half")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_text(path, fail)
    assert path.read_bytes() == "ä\n".encode()
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, lambda file: print("new", file=file))
    assert link.is_symlink() and target.read_text() == "new\n"


def test_a_device_is_written_to_not_replaced():
    write_text(Path(os.devnull), lambda file: print("gone", file=file))
    assert not os.path.isfile(os.devnull)


def test_places_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        write_text(tmp_path, print)
    with pytest.raises(XceptionError, match="cannot be written"):
        write_text(tmp_path / "gone" / "x", print)
    (tmp_path / "file").write_text("")
    with pytest.raises(XceptionError, match="cannot be written"):
        writable_folder(tmp_path / "file" / "below")
    with pytest.raises(XceptionError, match="there is no folder"):
        writable_file(tmp_path / "gone" / "x.png")
    with pytest.raises(UsageError, match="is a folder"):
        writable_file(tmp_path)


def test_folders_are_made(tmp_path):
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    assert writable_file(tmp_path / "a" / "x.png") == tmp_path / "a" / "x.png"
    assert os.listdir(tmp_path / "a") == ["b"]
