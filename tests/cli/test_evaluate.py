from __future__ import annotations

import json

import pytest
from PIL import Image

from xception.cli.main import main


def evaluate(capsys, *words: object) -> tuple[int, str, str]:
    code = main(["evaluate", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_tables_and_files(model_file, labelled, capsys, tmp_path):
    out = tmp_path / "new" / "evaluation"
    code, text, err = evaluate(capsys, model_file, labelled, "--out", out)
    assert code == 0
    assert "12 pictures of the test split" in text
    for words in ("top-1 accuracy", "calibration error", "nats a picture", "precision", "green"):
        assert words in text
    assert "top-5" not in text  # of three classes
    assert "written: " in err
    stored = json.loads((out / "evaluation.json").read_text())
    assert stored["count"] == 12 and stored["classes"] == ["blue", "green", "red"]
    with Image.open(out / "confusion.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100


def test_json_is_what_the_file_holds(model_file, labelled, capsys, tmp_path):
    code, text, _ = evaluate(capsys, model_file, labelled, "--json", "--out", tmp_path)
    assert code == 0
    assert json.loads(text) == json.loads((tmp_path / "evaluation.json").read_text())


def test_a_split_can_be_chosen(model_file, labelled, capsys):
    code, text, _ = evaluate(capsys, model_file, labelled, "--split", "train")
    assert code == 0 and "train split" in text
    code, _, err = evaluate(capsys, model_file, labelled, "--split", "val")
    assert code == 1 and "has no split 'val' (it has: train, test)" in err


def test_data_without_splits_are_measured_whole(model_file, labelled, capsys):
    code, text, _ = evaluate(capsys, model_file, labelled / "test", "--json")
    assert code == 0
    assert json.loads(text)["count"] == 12


def test_unreadable_pictures_are_named(model_file, labelled, capsys):
    bad = labelled / "test" / "red" / "0.png"
    bad.write_bytes(bad.read_bytes()[:50])
    code, text, err = evaluate(capsys, model_file, labelled)
    assert code == 1
    assert "11 pictures of the test split" in text
    assert f"skipped {bad}: " in err
    assert "1 picture could not be read" in err


def test_a_model_for_other_classes(model_file, labelled, capsys):
    for split in ("train", "test"):
        (labelled / split / "red").rename(labelled / split / "purple")
    code, text, err = evaluate(capsys, model_file, labelled)
    assert (code, text) == (1, "")
    assert "purple" in err and err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_known_first(labelled, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = evaluate(capsys, "no-model", labelled, "--out", tmp_path / "file")
    assert code == 1 and "cannot be written" in err


@pytest.mark.parametrize("what", ["no-such-data", "pictures"])
def test_data_that_are_none(what, model_file, pictures, capsys):
    words = pictures if what == "pictures" else what
    code, _, err = evaluate(capsys, model_file, words)
    assert code == 1 and err.count("\n") == 1
