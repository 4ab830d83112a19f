"""Each runtime gives what the network gives, from any thread, and says what it is."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from xception.errors import UsageError, XceptionError
from xception.export import to_onnx
from xception.export.outputs import NetworkOutput
from xception.inference.runtimes import (
    OnnxRuntimeRun,
    OpenVinoRun,
    Road,
    Run,
    TorchRun,
    check_runtime,
    installed_runtimes,
    require_runtime,
    version_of,
)
from xception.models import Classifier

NAMES = ["torch", "onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def file(trained: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("runtimes") / "m.onnx"
    to_onnx(trained, path, size=16)
    return path


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, trained: Classifier) -> Run:
    pytest.importorskip(request.param)
    if request.param == "torch":
        return TorchRun(NetworkOutput(trained, "logits"))
    kind = OnnxRuntimeRun if request.param == "onnxruntime" else OpenVinoRun
    return kind(request.getfixturevalue("file"), 1)


def test_numbers_are_the_networks(run: Run, trained: Classifier) -> None:
    for x in (
        torch.randn(1, 3, 16, 16),
        torch.randn(5, 3, 16, 16).to(memory_format=torch.channels_last),
        torch.randn(7, 3, 16, 16)[2:4],
    ):
        with torch.no_grad():
            expected = trained(x)
        found = run(x)
        assert found.dtype == torch.float32 and not found.is_inference()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_rows_stay_when_the_next_batch_comes(run: Run) -> None:
    first = run(torch.randn(2, 3, 16, 16))
    kept = first.clone()
    run(torch.randn(2, 3, 16, 16))
    assert torch.equal(first, kept)


def test_threads_do_not_disturb_each_other(run: Run) -> None:
    batches = list(torch.randn(12, 3, 3, 16, 16))
    expected = [run(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, batches))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_runtimes_write_nothing(file: Path) -> None:
    for name, kind in (("onnxruntime", "OnnxRuntimeRun"), ("openvino", "OpenVinoRun")):
        pytest.importorskip(name)
        code = (
            "import torch; from pathlib import Path\n"
            f"from xception.inference.runtimes import {kind} as kind\n"
            f"kind(Path({str(file)!r}), 1)(torch.zeros(1, 3, 16, 16))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: set[str] = set()
    monkeypatch.setattr(
        "xception.export.requirements.find_spec", lambda name: None if name in missing else name
    )
    assert installed_runtimes() == NAMES
    missing.add("openvino")
    assert installed_runtimes() == ["torch", "onnxruntime"]
    require_runtime("onnxruntime")
    with pytest.raises(XceptionError, match=r'openvino needs openvino: pip install "xception\[exp'):
        require_runtime("openvino")
    missing.add("onnxscript")
    assert installed_runtimes() == ["torch"]
    require_runtime("torch")
    with pytest.raises(XceptionError, match="onnxruntime needs onnxscript: pip install"):
        require_runtime("onnxruntime")


def test_versions() -> None:
    assert version_of("torch") == torch.__version__
    assert version_of("pytest") == pytest.__version__
    assert version_of("no_such_package") == "missing"


def test_names() -> None:
    check_runtime("auto")
    check_runtime("openvino")
    with pytest.raises(UsageError, match="one of auto, torch, onnxruntime, openvino, got 'tvm'"):
        check_runtime("tvm")


def test_a_road_in_one_line() -> None:
    road = Road(runtime="openvino", version="1.2", precision="int8", threads=2)
    assert str(road) == "openvino 1.2, int8, 2 threads"
    road = Road(
        runtime="torch",
        version="3",
        precision="float32",
        threads=1,
        seconds={"openvino": 1.25, "torch": 0.0123},
        pictures=8,
        note="why",
    )
    assert str(road) == (
        "torch 3, float32, 1 thread (measured on 8 pictures: torch 12.3 ms, openvino 1.25 s); why"
    )
