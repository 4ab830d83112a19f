"""Words that do not fit: one line that names them, and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from xception.cli import arguments
from xception.cli.main import main


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["predict"], "missing from xception predict: MODEL; see `xception predict --help`"),
        (["convert"], "missing from xception convert: SOURCE FILE; see `xception convert --help`"),
        (["embed", "m", "p"], "missing from xception embed: --out FILE; see"),
        (["check", "d", "more"], "unrecognized options: more; see `xception check --help`"),
        (
            ["predict", "m", "p", "--topk", "3"],
            "unrecognized options: --topk, 3; perhaps you meant: --top-k INT; see",
        ),
        (
            ["train", "d", "--optimizr", "sgd", "--epoch", "3"],
            "arguments similar to --optimizr: --optimizer {sgd,adamw,muon,rmsprop}",
        ),
        (["predict", "m", "p", "--top-k", "three"], "error parsing --top-k: invalid literal"),
        (["predict", "m", "p", "--top-k"], "missing value for argument '--top-k'"),
        (["embed", "m", "p", "--out", "f.npy", "--layer", "x"], "invalid choice 'x' for argument"),
    ],
)
def test_wrong_words_get_one_line(words, line, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("xception: error: ") and err.count("\n") == 1
    assert line in err
    assert "----" not in err


def test_where_the_screen_can_show_a_box_the_line_is_the_same():
    code = "import sys; from xception.cli.main import main; sys.exit(main(['check', 'd', '--jsn']))"
    lines = set()
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )
        assert done.returncode == 2
        lines.add(done.stderr)
    assert len(lines) == 1 and b"unrecognized options: --jsn; " in lines.pop()


def test_colours_are_taken_off():
    side = "\N{BOX DRAWINGS LIGHT VERTICAL}"
    rows = ("\x1b[1mNo such x.\x1b[0m", "    --name", "        help", "-----", "For more")
    box = "\n".join(["*- Title -*", *(f"\x1b[31m{side}\x1b[0m {row}  {side}" for row in rows)])
    assert arguments._complaint(box) == "no such x. --name"


@pytest.mark.parametrize("said", ["error: no such option\n", "error:\n\n- no such option", ""])
def test_a_message_in_another_form_is_still_one_line(said):
    assert arguments._complaint(said) == " ".join(said.split())
