"""Folders of class folders, as users really have them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from xception.data.sources import open_data
from xception.errors import DataError

Folder = Callable[..., Path]


def message(spec: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_data(spec, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders_are_split_by_seed(class_folder: Folder) -> None:
    root = class_folder({"cat": 10, "dog": 20})
    source = open_data(root)
    assert source.classes == ["cat", "dog"]
    assert source.counts() == {"train": {"cat": 9, "dog": 18}, "val": {"cat": 1, "dog": 2}}
    again = open_data(str(root))
    assert again.splits["val"].names == source.splits["val"].names
    other = open_data(root, seed=1)
    assert other.splits["val"].names != source.splits["val"].names
    assert not set(source.splits["val"].names) & set(source.splits["train"].names)
    picture = source.splits["train"].load(0)
    assert picture.mode == "RGB" and picture.size == (8, 6)
    assert source.splits["train"].size(0) == (8, 6)


def test_no_validation_part(class_folder: Folder) -> None:
    source = open_data(class_folder({"cat": 3, "dog": 3}), val_fraction=0)
    assert list(source.splits) == ["train"] and len(source.splits["train"]) == 6
    assert source.evaluation_split() == "train"
    with pytest.raises(DataError, match="has no split 'test'"):
        source.split("test")


def test_the_split_does_not_depend_on_place_or_order(
    class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"cat": 12, "dog": 12}
    first = open_data(class_folder(counts, "here"))
    names = [Path(name).relative_to(class_folder({}, "here")) for name in first.split("val").names]
    real = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            self.entries = list(real(path))[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    there = class_folder(counts, "there")
    second = open_data(there)
    assert [Path(name).relative_to(there) for name in second.split("val").names] == names


def test_a_single_picture_stays_in_training(class_folder: Folder) -> None:
    source = open_data(class_folder({"cat": 1, "dog": 2}), val_fraction=0.9)
    assert source.counts() == {"train": {"cat": 1, "dog": 1}, "val": {"cat": 0, "dog": 1}}


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "VAL"])
def test_split_folders(class_folder: Folder, val: str) -> None:
    root = class_folder(
        {"train/cat": 2, "train/dog": 2, f"{val}/cat": 1, f"{val}/dog": 1, "test/cat": 1}
    )
    source = open_data(root)
    assert list(source.splits) == ["train", "val", "test"]
    assert [len(samples) for samples in source.splits.values()] == [4, 2, 1]
    assert source.problems == ["split 'test' has no pictures of 'dog'"]
    assert source.evaluation_split() == "test"


def test_validation_comes_from_train_where_only_test_is_there(class_folder: Folder) -> None:
    root = class_folder({"Train/a": 10, "Train/b": 10, "Test/a": 1, "Test/b": 1, "extra/x": 1})
    source = open_data(root)
    assert {name: len(s) for name, s in source.splits.items()} == {"train": 18, "val": 2, "test": 2}
    assert source.notes == ["folders beside the splits are not used: extra/"]


def test_a_test_folder_alone(class_folder: Folder) -> None:
    source = open_data(class_folder({"test/cat": 2, "test/dog": 1}))
    assert list(source.splits) == ["test"] and source.classes == ["cat", "dog"]


def test_classes_that_are_called_like_splits(class_folder: Folder) -> None:
    source = open_data(class_folder({"train": 2, "plane": 2, "test": 2}), val_fraction=0)
    assert source.classes == ["plane", "test", "train"]


def test_two_validation_folders(class_folder: Folder) -> None:
    root = class_folder({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1})
    assert "both val/ and valid/ would be the val split" in message(root)


def test_natural_order_nested_folders_and_unicode(class_folder: Folder) -> None:
    root = class_folder({"class 10/2020/may": 1, "class 2": 2, "class 2/deep": 1, "Äpfel 🍎": 1})
    source = open_data(root, val_fraction=0)
    assert source.classes == ["class 2", "class 10", "Äpfel 🍎"]
    assert source.counts()["train"] == {"class 2": 3, "class 10": 1, "Äpfel 🍎": 1}


def test_the_same_name_in_two_spellings_is_one_class(class_folder: Folder) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caféé") for form in ("NFC", "NFD"))
    root = class_folder(
        {f"train/{composed}": 2, "train/tea": 2, f"test/{decomposed}": 1, "test/tea": 1}
    )
    source = open_data(root)
    assert source.classes == [composed, "tea"] and not source.problems


def test_names_that_are_no_text(class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    odd = os.fsdecode(os.fsencode(root / "cat") + b"/caf\xe9.png")
    os.rename(root / "cat" / "000.png", odd)
    train = open_data(root, val_fraction=0).splits["train"]
    for i, name in enumerate(train.names):
        name.encode()
        assert train.load(i).size == (8, 6)


def test_other_files_are_counted_and_hidden_ones_passed_over(class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2, ".hidden": 2, "__MACOSX/cat": 1})
    (root / "cat" / "notes.TXT").write_text("x")
    (root / "cat" / "photo.heic").write_bytes(b"x")
    (root / "cat" / "README").write_text("x")
    (root / "cat" / "._000.png").write_bytes(b"x")
    source = open_data(root, val_fraction=0)
    assert source.classes == ["cat", "dog"] and len(source.splits["train"]) == 4
    assert source.ignored == {".txt": 1, ".heic": 1, "without ending": 1}


def test_loops_of_links_end_and_links_are_followed(class_folder: Folder) -> None:
    root = class_folder({"cat": 2, "dog": 2})
    elsewhere = class_folder({"": 3}, "elsewhere")
    (root / "cat" / "more").symlink_to(elsewhere)
    (root / "cat" / "up").symlink_to(root / "cat")
    (root / "dog" / "self").symlink_to(root / "dog" / "self")
    (root / "dog" / "gone.png").symlink_to(root / "nothing")
    source = open_data(root, val_fraction=0)
    assert source.counts()["train"] == {"cat": 5, "dog": 3}  # the broken link is for the check


def test_an_empty_class_folder_is_a_problem(class_folder: Folder) -> None:
    source = open_data(class_folder({"cat": 2, "dog": 2, "cow": 0}), val_fraction=0)
    assert source.classes == ["cat", "dog"]
    assert source.problems[0].endswith("cow holds no pictures")


def test_pictures_beside_class_folders_are_a_problem(class_folder: Folder) -> None:
    source = open_data(class_folder({"": 1, "cat": 2, "dog": 2}))
    assert "1 pictures lie directly in" in source.problems[0]


def test_a_class_that_cannot_be_learned(class_folder: Folder) -> None:
    root = class_folder({"train/cat": 2, "train/dog": 2, "test/Cat": 1, "test/dog": 1})
    assert "split 'train' has no pictures of 'Cat', which test has" in message(root)
    lenient = open_data(root, strict=False)
    assert lenient.classes == ["Cat", "cat", "dog"] and len(lenient.problems) == 2


def test_the_models_classes_rule(class_folder: Folder) -> None:
    root = class_folder({"dog": 2})
    source = open_data(root, classes=["wolf", "dog"], val_fraction=0)
    assert source.classes == ["wolf", "dog"] and source.splits["train"].labels == [1, 1]
    text = message(class_folder({"cow": 1}), classes=["wolf", "dog"])
    assert "classes that the model does not know: 'cow' (it knows: 'wolf', 'dog')" in text


def test_missing_paths_suggest_what_is_near(class_folder: Folder) -> None:
    root = class_folder({"cat": 1, "dog": 1})
    assert f"did you mean {root}?" in message(str(root)[:-1])
    assert "did you mean fashion-mnist" in message("fashion_mnist_5k")
    assert "one of fashion-mnist-5k" in message("zzzzzz")
    assert "and neither does" in message(root / "a" / "b")
    assert "does not exist" in message("a\0b")


def test_folders_that_are_no_data(class_folder: Folder, tmp_path: Path) -> None:
    empty = class_folder({}, "empty")
    assert "the folder is empty" in message(empty)
    assert "holds 3 pictures but no class folders" in message(class_folder({"": 3}, "flat"))
    assert "holds 2 pictures but no class folders" in message(class_folder({"train": 2}, "t"))
    assert "has only one class ('cat')" in message(class_folder({"cat": 3}, "one"))
    texts = class_folder({"cat": 0, "dog": 0}, "texts")
    (texts / "cat" / "a.txt").write_text("x")
    assert "holds no pictures (files found: 1 .txt)" in message(texts)
    nested = class_folder({"data/cat": 2, "data/dog": 2}, "nested")
    assert f"if those are the classes, give {nested / 'data'}" in message(nested)
    single = tmp_path / "x.jpg"
    single.write_bytes(b"x")
    assert "is neither a folder nor a table" in message(single)


def test_a_folder_that_cannot_be_read(
    class_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = class_folder({"cat": 1, "dog": 1})

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert "the folder cannot be read (permission denied)" in message(root)


def test_a_split_file_overrules(class_folder: Folder, tmp_path: Path) -> None:
    root = class_folder({"cat": 3, "dog": 3})
    file = tmp_path / "splits.csv"
    lines = [f"{c}/00{i}.png,{s}" for c in ("cat", "dog") for i, s in enumerate(("train", "test"))]
    file.write_text("path,split\n" + "\n".join(lines))
    source = open_data(root, split_file=file, val_fraction=0)
    assert source.counts() == {"train": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 1}}
    assert source.notes == ["2 pictures are not in the split file and are left out"]
    file.write_text("path,split\ncat/999.png,train\n")
    assert "names 1 pictures that are not there: cat/999.png" in message(root, split_file=file)
    assert "the split file does not exist" in message(root, split_file=tmp_path / "none.csv")
