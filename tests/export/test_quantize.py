"""int8 files: small, near the original, made in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xception.errors import UsageError, XceptionError
from xception.export import quantize_onnx, quantize_openvino, to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    """Calibration: batches of unequal length, one of them empty."""
    torch.manual_seed(1)
    return [torch.randn(n, 3, 16, 16) for n in (5, 0, 3)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_trained: Any) -> Path:
    path = tmp_path_factory.mktemp("int8") / "m.onnx"
    to_onnx(make_trained(), path, size=16)
    return path


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_by_onnx_runtime(
    source: Path,
    pictures: list[Tensor],
    make_trained: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "int8.onnx"
    quantize_onnx(source, target, pictures)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    assert target.stat().st_size < 0.4 * source.stat().st_size
    loaded = onnx.load(target)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in loaded.graph.node}
    assert [entry.key for entry in loaded.metadata_props if entry.key == "xception"]
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for x in (pictures[0], pictures[2][:1]):
            found = torch.from_numpy(session.run(None, {"pictures": x.numpy()})[0])
            assert 0 < relative_error(found, make_trained()(x)) < 0.1


def test_by_nncf(
    source: Path,
    pictures: list[Tensor],
    make_trained: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    target = tmp_path / "int8.xml"
    quantize_openvino(source, target, pictures)
    assert capfd.readouterr().out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.bin", "int8.xml"]
    assert target.with_suffix(".bin").stat().st_size < 0.4 * source.stat().st_size
    compiled = openvino.Core().compile_model(target, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        for x in (pictures[0], pictures[2][:1]):
            found = torch.from_numpy(compiled(x.numpy())[0])
            assert 0 < relative_error(found, make_trained()(x)) < 0.1


@pytest.mark.parametrize("quantize", [quantize_onnx, quantize_openvino])
def test_without_pictures_or_packages(
    quantize: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(UsageError, match="calibration has no picture"):
        quantize(source, tmp_path / "m.xml", [torch.empty(0, 3, 16, 16)])
    monkeypatch.setattr("xception.export.requirements.find_spec", lambda name: None)
    with pytest.raises(XceptionError, match=r'pip install "xception\[export\]"'):
        quantize(source, tmp_path / "m.xml", [torch.randn(1, 3, 16, 16)])
    assert not list(tmp_path.iterdir())
