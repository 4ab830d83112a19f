from __future__ import annotations

import json
import shutil

from xception.cli.main import main


def check(capsys, *words: object) -> tuple[int, str, str]:
    code = main(["check", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_sound_data(labelled, capsys):
    code, out, err = check(capsys, labelled)
    assert (code, err) == (0, "")
    assert "24 pictures, 3 classes" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["class", "train", "test"] in rows
    assert ["blue", "4", "4"] in rows
    assert ["all", "12", "12"] in rows
    assert "Nothing is wrong" in out


def test_unsound_data(labelled, capsys):
    shutil.copy(labelled / "train" / "red" / "0.png", labelled / "test" / "red" / "copy.png")
    (labelled / "train" / "blue" / "text.jpg").write_text("text")
    code, out, _ = check(capsys, labelled)
    assert code == 1
    assert out.count("problem ") == 2
    assert "text.jpg" in out and "copy.png" in out
    assert "Nothing is wrong" not in out


def test_json(labelled, capsys):
    code, out, _ = check(capsys, labelled, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["ok"] and report["total"] == 24
    assert report["counts"]["test"] == {"blue": 4, "green": 4, "red": 4}


def test_missing_data(capsys):
    code, out, err = check(capsys, "no-such-data")
    assert (code, out) == (1, "")
    assert err.startswith("xception: error: no-such-data: does not exist")
