"""Networks of ours as Keras models: the same numbers in Keras itself, the same file each time."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from xception.models import Classifier, create_model
from xception.weights.dialects.keras_export import to_keras
from xception.weights.dialects.keras_writer import write_keras_archive, write_keras_weights


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    return pytest.importorskip("keras")


def network(name: str, size: tuple[int, int], **arguments: Any) -> Classifier:
    """A network in which every layer matters to the logits."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **arguments).eval()
    assert isinstance(model, Classifier)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    model.preprocessing = dataclasses.replace(model.preprocessing, size=size)
    return model


NETWORKS: list[tuple[str, tuple[int, int], dict[str, Any]]] = [
    ("xception", (71, 80), {"fc_units": (7,), "dropout": 0.5}),
    ("xception_tiny", (32, 32), {}),
    ("xception_tiny", (32, 31), {"segments": 4, "intermediate_activation": "elu"}),
    ("xception_tiny", (33, 30), {"residual": False, "intermediate_activation": "relu"}),
    ("xception_tiny", (31, 32), {"in_channels": 1, "segments": 1}),
    ("xception_tiny", (33, 33), {"padding": "torch", "bn_eps": 1e-5}),
    ("mini_xception", (64, 63), {}),
    ("xception41", (65, 64), {}),
    ("xception41p", (64, 65), {}),
]


@pytest.mark.parametrize(("name", "size", "arguments"), NETWORKS)
def test_keras_computes_the_same(
    keras: Any, tmp_path: Path, name: str, size: tuple[int, int], arguments: dict[str, Any]
) -> None:
    model = network(name, size, **arguments)
    layers = to_keras(model, softmax=False)
    path = tmp_path / "m.keras"
    with path.open("wb") as file:
        write_keras_archive(file, layers, name, {})
    theirs = keras.models.load_model(path)
    assert [layer.name for layer in theirs.layers] == [layer.name for layer in layers]
    x = torch.randn(2, model.in_channels, *size)
    with torch.no_grad():
        expected = model(x)
        found = theirs(x.permute(0, 2, 3, 1), training=False).cpu()
    assert expected.std(0).max() > 1e-3 * expected.abs().max()  # the pictures are told apart
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_the_papers_network_has_the_layers_of_keras_applications(keras: Any) -> None:
    theirs = keras.applications.Xception(weights=None, input_shape=(71, 71, 3), classes=5)
    ours = to_keras(network("xception", (71, 71)))
    assert [layer.class_name for layer in ours] == [type(layer).__name__ for layer in theirs.layers]
    named = [layer for layer in theirs.layers if layer.name.startswith(("block", "avg", "pred"))]
    names = {layer.name for layer in ours}
    assert {layer.name for layer in named} <= names
    assert ours[-1].config["activation"] == "softmax"


def test_weights_alone_go_into_keras_applications(keras: Any, tmp_path: Path) -> None:
    model = network("xception", (71, 71))
    path = tmp_path / "m.weights.h5"
    with path.open("wb") as file:
        write_keras_weights(file, to_keras(model))
    theirs = keras.applications.Xception(weights=None, input_shape=(71, 71, 3), classes=5)
    theirs.load_weights(path)
    x = torch.randn(2, 3, 71, 71)
    with torch.no_grad():
        expected = model(x).softmax(1)
        found = theirs(x.permute(0, 2, 3, 1), training=False).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_same_model_gives_the_same_bytes() -> None:
    pytest.importorskip("h5py")
    layers = to_keras(network("xception_tiny", (32, 32)))
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        write_keras_archive(file, layers, "tiny", {"note": 1})
    assert files[0].getvalue() == files[1].getvalue()


@pytest.mark.parametrize(
    ("size", "arguments", "reason"),
    [
        ((32, 32), {"padding": "torch"}, "pads 32x32 on both sides"),
        ((32, 32), {"segments": 3}, "unevenly"),
        ((32, 32), {"output_stride": 2}, "output_stride"),
    ],
)
def test_what_keras_cannot_say_is_refused(
    size: tuple[int, int], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match="cannot go to Keras") as caught:
        to_keras(network("xception_tiny", size, **arguments))
    assert reason in str(caught.value)


def test_numbers_that_keras_would_round_are_refused() -> None:
    with pytest.raises(ValueError, match="64-bit"):
        to_keras(network("xception_tiny", (32, 32)).double())
