"""`xception convert`: what it says and leaves, with good input and with bad."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import xception
from xception.cli.main import main
from xception.weights.dialects.torch_dialects import to_state_dict


@pytest.fixture(scope="module")
def ported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict by timm's names, three classes."""
    model = xception.create_model("xception", num_classes=3, padding="torch", bn_eps=1e-5)
    path = tmp_path_factory.mktemp("ported") / "theirs.pth"
    torch.save(to_state_dict(model, "timm"), path)
    return path


def convert(capsys, *words):
    code = main(["convert", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_was_mapped_and_chosen_is_told(ported, capsys, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nbird\n")
    out = tmp_path / "m.safetensors"
    words = ("--classes", names, "--interpolation", "nearest", "--no-check", "--mapping")
    code, text, err = convert(capsys, ported, out, *words)
    assert code == 0 and f"written: {out}" in err
    assert "mapped 276 tensors" in text
    assert "  block1.rep.0.conv1.weight -> entry_flow.0.units.0.conv.depthwise.weight" in text
    assert "chosen: the file does not say" in text
    model = xception.load(out)
    assert model.class_names == ["cat", "dog", "bird"]
    assert model.preprocessing.interpolation == "nearest"


def test_what_another_format_has_no_place_for_is_told(ported, capsys, tmp_path):
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffcat\ndog\nbird\n\n".encode())
    out = tmp_path / "m.pth"
    words = (ported, out, "--no-check", "--classes", names, "--scaling", "imagenet")
    code, text, _ = convert(capsys, *words)
    assert code == 0 and "3: cat, dog, bird" in text
    assert "takes (x / 255 - mean) / std with mean 0.485, 0.456, 0.406" in text
    assert "m.pth holds weights alone: class names and preprocessing are not in it" in text
    assert "scaled by (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225] of values" in text
    assert "crop 0.8975, bicubic, 3 channels" in text
    assert "the file does not say how pictures" not in text  # the command line said it
    assert "the file does not name" not in text


def test_the_other_library_is_asked_where_it_is_installed(ported, capsys, tmp_path):
    pytest.importorskip("timm")
    words = (ported, tmp_path / "m.safetensors", "--size", 75)
    code, text, err = convert(capsys, *words)
    assert code == 0
    assert "parity with timm" in text and "at 299x299: largest difference of the logits" in text
    assert "relative to the largest logit" in text
    assert err.splitlines()[:2] == [
        "comparing theirs.pth with timm ...",
        "writing m.safetensors ...",
    ]


def test_names_of_our_own_files_are_told_too(model_file, capsys, tmp_path):
    words = ("--no-check", "--mapping")
    code, text, _ = convert(capsys, model_file, tmp_path / "m.safetensors", *words)
    assert code == 0 and "tensors keep their names" in text and " -> " not in text
    code, text, _ = convert(capsys, model_file, tmp_path / "m.weights.h5", *words)
    assert code == 0 and "  stem.conv1.weight -> layers/conv2d/vars/0" in text
    assert "tensors keep their names" not in text


def test_names_by_word_and_a_target_by_name(model_file, capsys, tmp_path):
    out = tmp_path / "m.safetensors"
    code, text, _ = convert(capsys, model_file, out, "--classes", "one", "two", "three")
    assert code == 0 and "3: one, two, three" in text
    code, _, err = convert(capsys, out, tmp_path / "n.safetensors", "--to", "timm")
    assert code == 1 and "timm does not have" in err and not (tmp_path / "n.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("gone.pth", "m.safetensors"), 1, "gone.pth: does not exist"),
        (("SOURCE", "m.onnx"), 2, "no file of weights that can be written ends so"),
        (("SOURCE", "no/such/folder/m.safetensors"), 1, "no/such/folder"),
        (("SOURCE", "m.safetensors", "--classes", "a", "b"), 2, "names 2 classes but has 3"),
        (("SOURCE", "m.safetensors", "--classes"), 2, "--classes needs names, a text file"),
        (("SOURCE", "m.safetensors", "--classes="), 2, "--classes needs names, a text file"),
        (("SOURCE", "m.safetensors", "--size", "0"), 2, "size"),
        (("SOURCE", "m.keras", "--to", "timm"), 2, "a file for timm ends in"),
        (("TEXT", "m.safetensors"), 1, "not a safetensors file"),
    ],
)
def test_bad_input_gets_one_line(words, code, line, model_file, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("just some text that goes on for a while")
    known = {"SOURCE": str(model_file), "TEXT": "notes.txt"}
    found, _, err = convert(capsys, *(known.get(word, word) for word in words))
    assert found == code and line in err
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("m.*"))


def test_every_command_that_takes_a_model_takes_the_others_files(ported, pictures, capsys):
    assert main(["predict", str(ported), str(pictures), "--json"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 3
    assert main(["info", str(ported)]) == 0
    out, err = capsys.readouterr()
    assert "imported from" in out and "chosen: the file does not say" in err
