"""OpenVINO's representation: the numbers of the network, in memory and from disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xception.errors import UsageError, XceptionError
from xception.export import to_openvino
from xception.models import list_models

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxscript")

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where the processor has it
Check = Callable[[Tensor, Tensor], None]


def run(model: Any, x: Tensor) -> Tensor:
    compiled = openvino.Core().compile_model(model, "CPU", EXACT)
    return torch.from_numpy(compiled(x.numpy())[0])


@pytest.mark.parametrize("name", list_models())
def test_every_network_with_any_batch(
    name: str, exported: Any, small_size: Any, assert_agrees: Check
) -> None:
    model, path = exported(name)
    read = openvino.Core().read_model(path)
    for count in (1, 3):
        x = torch.randn(count, model.in_channels, *small_size(model))
        with torch.no_grad():
            assert_agrees(run(read, x), model(x))


def test_on_disk_it_is_the_same(make_trained: Any, assert_agrees: Check, tmp_path: Path) -> None:
    model = make_trained()
    model.class_names = list("abcdefg")
    in_memory = to_openvino(model, tmp_path / "m.xml", size=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    on_disk = openvino.Core().read_model(tmp_path / "m.xml")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
    for read in (in_memory, on_disk):
        assert_agrees(run(read, x), expected)
        described = json.loads(read.get_rt_info("xception").astype(str))
        assert described["class_names"] == list("abcdefg")


def test_what_does_not_fit_is_refused(
    make_trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_trained()
    with pytest.raises(UsageError, match=r"ends in \.xml"):
        to_openvino(model, tmp_path / "m.onnx", size=16)
    with pytest.raises(XceptionError, match="cannot be written"):
        to_openvino(model, tmp_path / "gone" / "m.xml", size=16)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("xception.export.requirements.find_spec", lambda name: None)
    with pytest.raises(XceptionError, match=r"needs openvino: pip install"):
        to_openvino(model)
