from __future__ import annotations

import csv
import io
import json
import os

import pytest

from xception.cli.main import main

CLASSES = {"blue", "green", "red"}


def predict(capsys, *words: object) -> tuple[int, str, str]:
    code = main(["predict", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_table(model_file, pictures, capsys, monkeypatch):
    monkeypatch.chdir(pictures.parent)  # a short name, which the table need not cut
    code, out, err = predict(capsys, model_file, pictures.name)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["picture", "prediction", "next"]
    assert [line.split()[0] for line in lines[2:]] == [
        "pictures/1.png",
        "pictures/2.jpg",
        "pictures/below/3.PNG",
    ]
    assert all(line.split()[1] in CLASSES for line in lines[2:])


def test_json_has_a_line_for_each_picture(model_file, pictures, capsys):
    code, out, err = predict(capsys, model_file, pictures, "--json", "--top-k", 2)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["name"] for row in rows][:1] == [f"{pictures}/1.png"]
    assert len(rows) == 3
    for row in rows:
        assert list(row) == ["name", "labels", "probabilities", "error"]
        assert set(row["labels"]) < CLASSES
        assert len(row["labels"]) == 2
        assert 1 >= row["probabilities"][0] >= row["probabilities"][1] >= 0
        assert row["error"] is None


def test_csv_has_a_row_for_each_picture(model_file, pictures, capsys):
    code, out, _ = predict(capsys, model_file, pictures, "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 3
    ranks = ["", "_2", "_3"]  # five were asked for, the model has three classes
    assert {rows[0][f"label{rank}"] for rank in ranks} == CLASSES
    assert sum(float(rows[0][f"probability{rank}"]) for rank in ranks) == pytest.approx(1, abs=1e-5)
    assert list(rows[0])[-1] == "error"


def test_unreadable_pictures_are_reported_and_the_rest_goes_on(model_file, pictures, capsys):
    (pictures / "0.jpg").write_text("text")
    jpeg = (pictures / "2.jpg").read_bytes()
    (pictures / "2-cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    code, out, err = predict(capsys, model_file, pictures, "gone.png")
    assert code == 1
    assert len(out.splitlines()) == 2 + 3
    lines = err.splitlines()
    assert lines[0].startswith(f"skipped {pictures}/0.jpg: ")
    assert "truncated" in lines[1]
    assert lines[2] == "skipped gone.png: does not exist"
    assert lines[3] == "3 of 6 pictures could not be read"


def test_unreadable_pictures_keep_their_place_in_json_and_csv(model_file, pictures, capsys):
    (pictures / "0.jpg").write_text("text")
    code, out, err = predict(capsys, model_file, pictures, "--json")
    assert code == 1
    row = json.loads(out.splitlines()[0])
    assert row["labels"] == [] and row["error"]
    assert err == "1 of 4 pictures could not be read\n"
    code, out, _ = predict(capsys, model_file, pictures, "--csv")
    assert code == 1
    row = next(csv.DictReader(io.StringIO(out)))
    assert row["label"] == "" and row["error"]


@pytest.mark.parametrize(("name", "flag"), [("x.csv", None), ("x.jsonl", None), ("x", "--csv")])
def test_out_writes_a_file(name, flag, model_file, pictures, capsys):
    out = pictures / name
    words = [flag] if flag else []
    code, shown, _ = predict(capsys, model_file, pictures, "--out", out, *words)
    assert (code, shown) == (0, "")
    flags = ["--json"] if name.endswith("l") else ["--csv"]
    assert out.read_text() == predict(capsys, model_file, pictures, *flags)[1]
    assert not [entry for entry in os.listdir(pictures) if entry.endswith(".tmp")]


def test_out_that_cannot_be_written_is_known_first(model_file, pictures, capsys):
    code, out, err = predict(capsys, "no-model", pictures, "--out", pictures / "gone" / "x.csv")
    assert (code, out) == (1, "")
    assert "x.csv: cannot be written" in err
    code, _, err = predict(capsys, "no-model", pictures, "--out", pictures, "--csv")
    assert code == 2
    assert "is a folder" in err


def test_a_failure_leaves_the_old_file(pictures, capsys):
    out = pictures / "x.csv"
    out.write_text("old")
    assert predict(capsys, "no-model", pictures, "--out", out)[0] == 1
    assert out.read_text() == "old"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--json", "--csv"], "give one of --json and --csv"),
        (["--top-k", "0"], "--top-k must be at least 1, got 0"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--out", "x.txt"], "in which form should x.txt be written?"),
        (["--device", "tape"], "device 'tape' cannot be used here"),
    ],
)
def test_wrong_usage(words, line, model_file, pictures, capsys):
    code, out, err = predict(capsys, model_file, pictures, *words)
    assert (code, out) == (2, "")
    assert line in err


@pytest.mark.parametrize("words", [[], ["m", "p", "--zzz"], ["m", "p", "--top-k", "x"]])
def test_the_parser_exits_with_2(words, capsys):
    assert predict(capsys, *words)[0] == 2


def test_half_a_model_file(model_file, pictures, capsys, tmp_path):
    half = tmp_path / "half.safetensors"
    content = model_file.read_bytes()
    half.write_bytes(content[: len(content) // 2])
    code, out, err = predict(capsys, half, pictures)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and str(half) in err


def test_names_cannot_steer_the_terminal(model_file, pictures, capsys):
    (pictures / "1.png").rename(pictures / "\x1b[2J\r\n1.png")
    code, out, _ = predict(capsys, model_file, pictures)
    assert code == 0
    assert "\x1b" not in out and "\r" not in out
    assert len(out.splitlines()) == 2 + 3


def test_a_run_folder_is_a_model(model_file, pictures, capsys):
    assert predict(capsys, model_file.parent, pictures)[0] == 0
