from __future__ import annotations

import io
import os
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

import xception
from xception.cli.main import main
from xception.models import create_model


@pytest.fixture
def head_file(tmp_path):
    """A network whose head has a fully connected layer of 8 units."""
    torch.manual_seed(0)
    path = tmp_path / "head.safetensors"
    xception.save(create_model("xception_tiny", num_classes=3, fc_units=(8,)), path)
    return path


@pytest.fixture
def noise(tmp_path):
    """A folder of four pictures that differ."""
    folder = tmp_path / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def embed(capsys, *words: object) -> tuple[int, str]:
    code = main(["embed", *map(str, words)])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def paths_of(folder) -> list[str]:
    return [str(folder / name) for name in sorted(os.listdir(folder))]


@pytest.mark.parametrize(("layer", "width"), [("pre_logits", 8), ("pool", 256)])
def test_npy_and_its_names(layer, width, head_file, noise, tmp_path, capsys):
    out = tmp_path / "f.npy"
    code, err = embed(capsys, head_file, noise, "--out", out, "--layer", layer, "--batch-size", 3)
    names = tmp_path / "f.names.txt"
    assert code == 0
    assert err == f"written: {out}, {names} (4 pictures, {width} features each)\n"
    assert names.read_text().splitlines() == paths_of(noise)
    features = np.load(out)
    assert features.dtype == np.float32 and features.shape == (4, width)
    expected = xception.embed(head_file, paths_of(noise), layer=layer, device="cpu")
    assert np.allclose(features, expected.numpy(), atol=1e-6)
    assert np.abs(features[0] - features[1]).max() > 1e-4


def test_pre_logits_are_the_default(head_file, noise, tmp_path, capsys):
    assert embed(capsys, head_file, noise, "--out", tmp_path / "f.NPY")[0] == 0
    assert np.load(tmp_path / "f.NPY").shape == (4, 8)


def test_parquet(head_file, noise, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "f.parquet"
    code, err = embed(capsys, head_file, noise, "--out", out)
    assert (code, err) == (0, f"written: {out} (4 pictures, 8 features each)\n")
    table = parquet.read_table(out)
    assert table.column("path").to_pylist() == paths_of(noise)
    expected = xception.embed(head_file, paths_of(noise), device="cpu").numpy()
    assert np.allclose(np.array(table.column("features").to_pylist()), expected, atol=1e-6)
    assert not (tmp_path / "f.names.txt").exists()


def test_the_order_is_that_of_the_words(model_file, noise, tmp_path, capsys):
    out = tmp_path / "f.npy"
    words = [noise / "2.png", f"{noise}/[01].png", noise / "2.png"]
    assert embed(capsys, model_file, *words, "--out", out)[0] == 0
    assert [name[-5:] for name in (tmp_path / "f.names.txt").read_text().splitlines()] == [
        "2.png",
        "0.png",
        "1.png",
        "2.png",
    ]
    features = np.load(out)
    assert np.allclose(features[0], features[3], atol=1e-6)
    assert not np.allclose(features[0], features[1], atol=1e-4)


def test_a_list_on_standard_input(model_file, noise, tmp_path, capsys, monkeypatch):
    listed = "\n".join(reversed(paths_of(noise))).encode()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(listed)))
    assert embed(capsys, model_file, "-", "--out", tmp_path / "f.npy")[0] == 0
    assert (tmp_path / "f.names.txt").read_text().splitlines() == paths_of(noise)[::-1]
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO()))
    code, err = embed(capsys, model_file, "-", "--out", tmp_path / "g.npy")
    assert code == 1 and "no picture was named" in err
    assert not (tmp_path / "g.npy").exists()


def test_unreadable_pictures_are_reported_and_left_out(model_file, noise, tmp_path, capsys):
    (noise / "1-text.jpg").write_text("text")
    out = tmp_path / "f.npy"
    code, err = embed(capsys, model_file, noise, "gone.png", "--out", out)
    assert code == 1
    assert err.splitlines() == [
        f"skipped {noise}/1-text.jpg: is not a picture (it holds text)",
        "skipped gone.png: does not exist",
        "2 of 6 pictures could not be read",
        f"written: {out}, {tmp_path / 'f.names.txt'} (4 pictures, 256 features each)",
    ]
    assert (tmp_path / "f.names.txt").read_text().splitlines() == [
        str(noise / f"{i}.png") for i in range(4)
    ]
    assert np.load(out).shape == (4, 256)


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_where_nothing_can_be_read_no_file_is_made(ending, model_file, tmp_path, capsys):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"f.{ending}"
    code, err = embed(capsys, model_file, "gone.png", "--out", out)
    assert code == 1
    assert err.splitlines() == [
        "skipped gone.png: does not exist",
        "xception: error: none of 1 picture could be read, so nothing is written",
    ]
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_the_old_files(noise, model_file, tmp_path, capsys):
    (tmp_path / "f.npy").write_text("old")
    (tmp_path / "f.names.txt").write_text("names")
    for words in (["no-model", noise], [model_file, "gone.png"]):
        assert embed(capsys, *words, "--out", tmp_path / "f.npy")[0] == 1
    assert (tmp_path / "f.npy").read_text() == "old"
    assert (tmp_path / "f.names.txt").read_text() == "names"
    assert sorted(os.listdir(tmp_path)) == ["f.names.txt", "f.npy", "noise"]


def test_out_that_cannot_be_written_is_known_first(noise, tmp_path, capsys):
    """Before the model is looked at, which does not exist here."""
    code, err = embed(capsys, "no-model", noise, "--out", tmp_path / "gone" / "f.npy")
    assert code == 1 and "f.npy: cannot be written (there is no folder" in err
    (tmp_path / "d.npy").mkdir()
    code, err = embed(capsys, "no-model", noise, "--out", tmp_path / "d.npy")
    assert code == 2 and "d.npy is a folder" in err
    (tmp_path / "f.names.txt").mkdir()
    code, err = embed(capsys, "no-model", noise, "--out", tmp_path / "f.npy")
    assert code == 2 and "f.names.txt is no file" in err
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "p.parquet")
        code, err = embed(capsys, "no-model", noise, "--out", tmp_path / "p.parquet")
        assert code == 2 and "p.parquet is no file" in err
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_parquet_without_pyarrow(noise, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, err = embed(capsys, "no-model", noise, "--out", tmp_path / "f.parquet")
    assert code == 1
    assert 'writing Parquet needs pyarrow: pip install "xception[hub]"' in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--out", "f.csv"], "f.csv: give a name that ends in .npy or .parquet"),
        (["--out", "f"], "f: give a name that ends in .npy or .parquet"),
        (["--out", "f.npy", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--out", "f.npy", "--device", "tape"], "device 'tape' cannot be used here"),
        (["--out", "f.npy", "--layer", "logits"], "invalid choice"),
        ([], "--out FILE"),
    ],
)
def test_wrong_usage(words, line, model_file, noise, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, err = embed(capsys, model_file, noise, *words)
    assert code == 2
    assert line in err
    assert os.listdir(tmp_path) == ["noise"]
