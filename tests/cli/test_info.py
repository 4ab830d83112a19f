from __future__ import annotations

import json

import pytest
from PIL import Image

from xception.cli.main import main


def info(capsys, *words: object) -> tuple[int, str, str]:
    code = main(["info", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_network_by_name(capsys):
    code, out, _ = info(capsys, "xception")
    assert code == 0
    assert out.splitlines()[-1] == (
        "22,855,952 parameters, 8.36 G multiply-accumulates for a picture of 299 x 299 pixels"
    )


@pytest.mark.parametrize(("width", "has_types"), [(80, False), (120, True)])
def test_layers_stay_whole(width, has_types, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = info(capsys, "xception")
    assert code == 0
    assert ("BatchNorm2d" in out) == has_types
    assert max(map(len, out.splitlines()[:-1])) <= width
    assert any(
        line.startswith("middle_flow.7.units.2.conv.pointwise ") for line in out.splitlines()
    )


def test_classes_and_size_change_the_count(capsys):
    code, out, _ = info(capsys, "xception_tiny", "--num-classes", 3, "--size", 64, "--json")
    assert code == 0
    content = json.loads(out)
    assert content["layers"][-1]["output_shape"] == [3]
    assert content["layers"][0]["output_shape"][1:] == [64, 64]
    assert content["parameters"] == sum(layer["parameters"] for layer in content["layers"])


def test_a_model_file_says_where_it_comes_from(model_file, capsys):
    code, out, _ = info(capsys, model_file)
    assert code == 0
    assert "3: blue, green, red" in out
    scaled = "scaled by (x - 0.5) / 0.5 of values in 0..1"
    assert f"32 x 32 pixels, crop 1, bilinear, 3 channels, {scaled}" in out
    assert "versions" in out


def test_a_diagram(capsys, tmp_path):
    picture = tmp_path / "flows.png"
    assert info(capsys, "xception_tiny", "--diagram", picture)[0] == 0
    with Image.open(picture) as opened:
        assert opened.format == "PNG" and min(opened.size) > 200


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["xcepton"], "xcepton is no network and there is no such file; did you mean xception?"),
        (["xception", "--size", "50"], "--size 50: pictures must be at least 71x71 pixels"),
        (["xception", "--num-classes", "-1"], "num_classes"),
        (["xception_tiny", "--diagram", "x.docx"], "--diagram x.docx: "),
    ],
)
def test_wrong_usage(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = info(capsys, *words)
    assert code == 2
    assert line in err and err.count("\n") == 1


def test_num_classes_does_not_go_with_a_file(model_file, capsys):
    code, _, err = info(capsys, model_file, "--num-classes", 5)
    assert code == 2 and "a file has its own" in err


def test_a_diagram_that_cannot_be_written_is_known_first(capsys, tmp_path):
    code, out, err = info(capsys, "xception", "--diagram", tmp_path / "gone" / "x.png")
    assert (code, out) == (1, "")
    assert "there is no folder" in err
