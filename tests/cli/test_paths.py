from __future__ import annotations

import io
import types

import pytest

from xception.cli import paths
from xception.cli.paths import find_pictures
from xception.errors import DataError, UsageError


def test_a_folder_is_searched_through_in_order(pictures):
    assert list(find_pictures([str(pictures)])) == [
        f"{pictures}/1.png",
        f"{pictures}/2.jpg",
        f"{pictures}/below/3.PNG",
    ]


def test_files_keep_their_order_and_need_not_look_like_pictures(pictures):
    words = [f"{pictures}/2.jpg", f"{pictures}/notes.txt", f"{pictures}/1.png", "gone"]
    assert list(find_pictures(words)) == words


def test_patterns(pictures):
    found = list(find_pictures([f"{pictures}/**/*.[pP][nN][gG]"]))
    assert found == [f"{pictures}/1.png", f"{pictures}/below/3.PNG"]
    with pytest.raises(DataError, match="no file has a name of this pattern"):
        find_pictures([f"{pictures}/*.gif"])


def test_a_name_with_brackets_is_a_name(pictures):
    odd = pictures / "[1].png"
    odd.write_bytes(b"")
    assert list(find_pictures([str(odd)])) == [str(odd)]


def test_a_list_on_standard_input(pictures, monkeypatch):
    lines = io.BytesIO(f"a.png\r\n\n{pictures}/below\nb c.png".encode() + b"\n\xff.png\n")
    monkeypatch.setattr(
        paths, "sys", types.SimpleNamespace(stdin=types.SimpleNamespace(buffer=lines))
    )
    found = list(find_pictures(["first.png", "-", "last.png"]))
    below = f"{pictures}/below/3.PNG"
    assert found == ["first.png", "a.png", below, "b c.png", "\udcff.png", "last.png"]


def test_what_cannot_be_meant(tmp_path):
    with pytest.raises(UsageError, match="which pictures"):
        find_pictures([])
    with pytest.raises(UsageError, match="only once"):
        find_pictures(["-", "-"])
    with pytest.raises(DataError, match="no pictures in this folder"):
        find_pictures([str(tmp_path)])
