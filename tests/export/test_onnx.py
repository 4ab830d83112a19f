"""ONNX files in ONNX Runtime: the numbers of the network, a clean graph, any batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import xception
from xception.errors import UsageError, XceptionError
from xception.export import to_onnx
from xception.models import list_models

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Check = Callable[[Tensor, Tensor], None]


def run(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {"pictures": x.numpy()})
    return torch.from_numpy(rows)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("name", list_models())
def test_every_network_with_any_batch(
    name: str, exported: Any, small_size: Any, assert_agrees: Check
) -> None:
    model, path = exported(name)
    onnx.checker.check_model(str(path))
    for count in (1, 3):
        x = torch.randn(count, model.in_channels, *small_size(model))
        with torch.no_grad():
            assert_agrees(run(path, x), model(x))


@pytest.mark.parametrize("name", list_models())
def test_nothing_but_the_network_is_in_the_graph(name: str, exported: Any) -> None:
    _, path = exported(name)
    allowed = {"Conv", "Relu", "MaxPool", "Add", "ReduceMean", "Reshape", "Gemm"}
    if name.endswith("p"):
        allowed.add("BatchNormalization")  # behind sums
    assert set(operators(path)) <= allowed
    graph = onnx.load(path).graph
    for tensor in graph.initializer:
        tensor.ClearField("raw_data")
    assert b".py" not in graph.SerializeToString()  # where the exporter has found each line of code


@pytest.mark.parametrize(
    "arguments",
    [
        {"segments": 3},
        {"segments": 1, "intermediate_activation": "relu"},
        {"intermediate_activation": "elu", "padding": "torch"},
        {"residual": False, "pooling": "max", "fc_units": (5, 6)},
        {"output_stride": 2, "in_channels": 1},
        {"head_layers": ["linear 8", "batchnorm 0.001 0.1", "gelu"], "num_classes": 0},
    ],
)
def test_points_of_the_spectrum_and_heads(
    arguments: dict[str, Any], make_trained: Any, assert_agrees: Check, tmp_path: Path
) -> None:
    model = make_trained(**arguments)
    to_onnx(model, tmp_path / "m.onnx", size=(20, 17))
    x = torch.randn(2, model.in_channels, 20, 17)
    with torch.no_grad():
        assert_agrees(run(tmp_path / "m.onnx", x), model(x))


def test_tensorflows_padding_is_an_attribute_of_the_convolutions(
    make_trained: Any, assert_agrees: Check, tmp_path: Path
) -> None:
    model = make_trained("xception41", padding="keras")
    path = tmp_path / "m.onnx"
    to_onnx(model, path, size=48)
    assert "Pad" not in operators(path)
    first = onnx.load(path).graph.node[0]
    assert [list(a.ints) for a in first.attribute if a.name == "pads"] == [[0, 0, 1, 1]]
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert_agrees(run(path, x), model(x))


def test_pools_say_what_they_pad(exported: Any) -> None:
    _, path = exported("xception_tiny")  # of 16x25
    pools = [node for node in onnx.load(path).graph.node if node.op_type == "MaxPool"]
    found = []
    for pool in pools:
        given = {attribute.name: attribute for attribute in pool.attribute}
        assert given["ceil_mode"].i == 0
        found.append(list(given["pads"].ints))
    # 16x25, 8x13, 4x7: an even side needs one pixel after it, an odd one needs one on each side
    assert found == [[0, 1, 1, 1]] * 3


def test_a_layout_in_memory_changes_no_graph(
    make_trained: Any, exported: Any, small_size: Any, tmp_path: Path
) -> None:
    _, path = exported("xception_tiny")
    model = make_trained().to(memory_format=torch.channels_last)
    to_onnx(model, tmp_path / "m.onnx", size=small_size(model))
    assert operators(tmp_path / "m.onnx") == operators(path)


@pytest.mark.parametrize("output", ["pre_logits", "pool"])
def test_features_come_out(
    output: Any, make_trained: Any, assert_agrees: Check, tmp_path: Path
) -> None:
    model = make_trained(fc_units=(5,))
    to_onnx(model, tmp_path / "m.onnx", size=16, output=output)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        maps = model.forward_features(x)
        expected = {
            "pre_logits": model.forward_head(maps, pre_logits=True),
            "pool": maps.mean((2, 3)),
        }
    assert_agrees(run(tmp_path / "m.onnx", x), expected[output])


def test_a_fixed_batch_and_other_types(make_trained: Any, tmp_path: Path) -> None:
    model = make_trained().double().train()
    to_onnx(model, tmp_path / "m.onnx", batch=1, size=16)
    assert model.training and next(model.parameters()).dtype == torch.float64
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(x.double()).float()
    torch.testing.assert_close(run(tmp_path / "m.onnx", x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match="dimension"):
        run(tmp_path / "m.onnx", torch.randn(2, 3, 16, 16))


def test_the_description_travels_along(make_trained: Any, tmp_path: Path) -> None:
    model = make_trained(segments=4)
    model.class_names = list("abcdefg")
    to_onnx(model, tmp_path / "m.onnx")
    loaded = onnx.load(tmp_path / "m.onnx")
    assert (loaded.producer_name, loaded.producer_version) == ("xception", xception.__version__)
    (entry,) = loaded.metadata_props
    described = json.loads(entry.value)
    assert entry.key == "xception"
    assert described["class_names"] == list("abcdefg")
    assert described["preprocessing"] == model.preprocessing.to_dict()
    assert described["architecture"]["args"]["segments"] == 4
    (given,), (taken,) = loaded.graph.output, loaded.graph.input
    assert (taken.name, given.name) == ("pictures", "logits")


def test_what_does_not_fit_is_refused(
    make_trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = make_trained(), tmp_path / "m.onnx"
    with pytest.raises(UsageError, match="at least 16x16 pixels"):
        to_onnx(model, path, size=15)
    for batch in (0, 1.5, "all"):
        with pytest.raises(UsageError, match="batch must be"):
            to_onnx(model, path, batch=batch)
    with pytest.raises(UsageError, match="output must be one of"):
        to_onnx(model, path, size=16, output="features")
    with pytest.raises(XceptionError, match="cannot be written"):
        to_onnx(model, tmp_path / "gone" / "m.onnx", size=16)
    model.class_names = ["one"]
    with pytest.raises(UsageError, match="names 1 classes but has 7"):
        to_onnx(model, path, size=16)
    monkeypatch.setattr("xception.export.requirements.find_spec", lambda name: None)
    with pytest.raises(XceptionError, match=r'pip install "xception\[export\]"'):
        to_onnx(model, path)
    assert not list(tmp_path.iterdir())
