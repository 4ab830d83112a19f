"""Which road was taken is said once, on stderr, where a person should know."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from xception.cli.main import main
from xception.cli.road import tell
from xception.inference import runner
from xception.inference.runtimes import Road


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.setenv("XCEPTION_CACHE", str(tmp_path / "cache"))


def test_news_is_said_and_the_rest_is_for_verbose(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for is_news in (True, False):
        tell(Road(runtime="torch", version="3", precision="float32", threads=2, is_news=is_news))
    line = "run by torch 3, float32, 2 threads; another: --runtime auto|torch|onnxruntime|openvino"
    assert capsys.readouterr() == ("", f"{line}\n")
    assert caplog.messages == [line]


def test_every_command_takes_the_road_that_is_asked_for(
    exports: None,
    model_file: Path,
    pictures: Path,
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    features = {name: tmp_path / f"{name}.npy" for name in ("torch", "onnxruntime")}
    shown: dict[str, list[str]] = {}
    for runtime in features:
        asked = ["--runtime", runtime, "--device", "cpu"]
        shown[runtime] = []
        for words in (
            ["predict", model_file, pictures, "--csv"],
            ["evaluate", model_file, labelled],
            ["embed", model_file, pictures, "--out", features[runtime]],
        ):
            assert main([*map(str, words), *asked]) == 0
            out, err = capsys.readouterr()
            roads = [line for line in err.splitlines() if line.startswith("run by ")]
            assert len(roads) == (runtime != "torch")
            assert all(road.startswith("run by onnxruntime ") for road in roads)
            shown[runtime].append(out)
    assert shown["torch"][1:] == shown["onnxruntime"][1:]
    a, b = (np.load(path) for path in features.values())
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_long_work_says_what_was_measured(
    exports: None,
    model_file: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(runner, "WORTH_MACS", 1.0)
    words = ["predict", str(model_file), str(pictures), "--batch-size", "1", "--device", "cpu"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 + 3
    assert "measured on 1 picture: " in err and err.count("\n") == 1


def test_a_missing_runtime_is_one_line(
    model_file: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("xception.export.requirements.find_spec", lambda name: None)
    assert main(["predict", str(model_file), str(pictures), "--runtime", "openvino"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("xception: error: runtime openvino needs onnx, ")
    assert err.endswith(': pip install "xception[export]"\n')
    assert main(["predict", str(model_file), str(pictures), "--runtime", "tvm"]) == 2
