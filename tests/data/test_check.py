"""What the check of a data set finds, and the limit on unreadable pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from xception.data.check import check_data
from xception.data.sources import open_data
from xception.data.unreadable import UnreadableTally
from xception.errors import DataError

Folder = Callable[..., Path]


def test_a_sound_data_set(class_folder: Folder) -> None:
    root = class_folder({"train/cat": 12, "train/dog": 12, "test/cat": 2, "test/dog": 2})
    calls: list[tuple[int, int]] = []
    report = check_data(root, progress=lambda done, total: calls.append((done, total)))
    assert report.ok and not report.notes and report.total == 28
    assert report.counts["test"] == {"cat": 2, "dog": 2}
    assert report.sizes["train"].width == (8, 8, 8) and report.sizes["test"].height == (6, 6, 6)
    assert calls[-1] == (28, 28)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_everything_wrong_is_found(class_folder: Folder) -> None:
    root = class_folder({"train/cat": 120, "train/dog": 11, "train/cow": 2, "test/cat": 3})
    shutil.copy(root / "train/cat/000.png", root / "test/cat/copy.png")
    Image.open(root / "train/cat/001.png").save(root / "train/dog/other.bmp")
    shutil.copy(root / "train/cat/002.png", root / "train/cat/again.png")
    (root / "train/dog/text.jpg").write_text("no picture")
    (root / "train/dog/cut.png").write_bytes((root / "train/dog/000.png").read_bytes()[:60])
    (root / "train/dog/gone.png").symlink_to(root / "nowhere")
    (root / "train/dog/list.txt").write_text("x")
    report = check_data(root)
    assert not report.ok
    reasons = {Path(one.name).name: one.reason for one in report.unreadable}
    assert reasons["text.jpg"] == "is not a picture (it holds text)"
    assert reasons["cut.png"].startswith(("is truncated", "is damaged"))
    assert reasons["gone.png"] == "is a link to a file that does not exist"
    groups = {
        tuple(sorted(Path(p.name).name for p in group.pictures)): group
        for group in report.duplicates
    }
    assert groups[("000.png", "copy.png")].splits == ("train", "test")
    assert groups[("001.png", "other.bmp")].labels == ("cat", "dog")
    assert groups[("002.png", "again.png")].splits == ("train",)
    assert len(groups) == 3
    assert report.missing_classes == {"test": ["cow", "dog"]}
    text = "\n".join(report.problems)
    assert "3 pictures cannot be read: " in text
    assert "1 picture occurs in more than one split: " in text
    assert "1 picture occurs with different labels: " in text and "as cat / dog" in text
    assert "split 'test' has no pictures of 'cow', 'dog'" in text
    notes = "\n".join(report.notes)
    assert "1 picture occurs more than once in a split" in notes
    assert "strong imbalance: 'cat' has 121 training pictures, 'cow' has 2" in notes
    assert "fewer than 10 training pictures: 'cow' (2)" in notes
    assert "left aside: 1 .txt" in notes
    json.dumps(report.to_dict())


def test_workers_find_the_same(class_folder: Folder) -> None:
    root = class_folder({"cat": 40, "dog": 40})
    (root / "cat" / "bad.png").write_bytes(b"")
    assert check_data(root, workers=2) == check_data(root, workers=0)


def test_a_class_only_in_test_is_a_problem_not_a_stop(class_folder: Folder) -> None:
    report = check_data(class_folder({"train/a": 1, "train/b": 1, "test/c": 1}))
    assert any("split 'train' has no pictures of 'c'" in problem for problem in report.problems)


def test_no_readable_picture_at_all(class_folder: Folder) -> None:
    root = class_folder({"cat": 0, "dog": 0})
    for i in range(3):
        (root / "cat" / f"{i}.jpg").write_text("text")
        (root / "dog" / f"{i}.jpg").write_text("text")
    report = check_data(root)
    assert len(report.unreadable) == 6 and report.sizes == {} and not report.duplicates


def test_the_built_in_data_are_sound() -> None:
    report = check_data(open_data("fashion-mnist-5k"))
    assert report.ok and report.total == 6000


def test_the_tally_names_each_file_once_and_stops() -> None:
    heard: list[tuple[str, str]] = []
    tally = UnreadableTally(300, 0.01, lambda name, reason: heard.append((name, reason)))
    for _ in range(3):
        tally.add([("a.jpg", "is an empty file"), ("b.jpg", "does not exist")])
    tally.add([("c.jpg", "is truncated")])
    assert tally.count == 3 and [name for name, _ in heard] == ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(DataError) as caught:
        tally.add([("d.jpg", "is truncated")])
    text = str(caught.value)
    assert text.startswith("4 of 300 pictures cannot be read, more than the allowed 1.0%: a.jpg (")
    assert "d.jpg (is truncated)" in text and "\n" not in text
