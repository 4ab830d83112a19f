"""The classifier on top of the feature map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xception.models import create_model, summarize, totals
from xception.models.anatomy import anatomy
from xception.models.head import ClassifierHead, GlobalMaxPool2d

LAYERS = (
    "batchnorm 0.001 0.01", "linear 24 nobias", "gelu", "dropout 0.5", "linear 16", "leaky_relu 0.3"
)  # fmt: skip


def randomized(module: nn.Module) -> Any:
    """Statistics that differ from fresh ones, in eval mode."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.normal_(norm.bias)
    return module.eval()


def tiny(**arguments: Any) -> Any:
    torch.manual_seed(0)
    settings = {"num_classes": 5, "pooling": "max", "head_layers": LAYERS, **arguments}
    return randomized(create_model("xception_tiny", **settings))


def test_pool_fully_connected_dropout_classes_in_that_order() -> None:
    torch.manual_seed(0)
    head = ClassifierHead(6, 4, fc_units=(5, 3), dropout=0.5).eval()
    x = torch.randn(2, 6, 3, 4)
    hidden = x.mean((2, 3))
    for layer in (head.fc_layers[0], head.fc_layers[2]):
        hidden = F.relu(layer(hidden))
    torch.testing.assert_close(head(x, pre_logits=True), hidden)
    torch.testing.assert_close(head(x), head.fc(hidden))
    torch.manual_seed(1)
    dropped = head.train()(x, pre_logits=True)
    torch.manual_seed(1)
    torch.testing.assert_close(dropped, F.dropout(hidden, 0.5))


def test_state_dict_names() -> None:
    assert list(ClassifierHead(6, 4).state_dict()) == ["fc.weight", "fc.bias"]
    assert list(ClassifierHead(6, 0).state_dict()) == []
    names = list(ClassifierHead(6, 4, head_layers=LAYERS).state_dict())
    assert names[0] == "fc_layers.0.weight" and names[-2:] == ["fc.weight", "fc.bias"]
    assert {name.split(".")[1] for name in names[:-2]} == {"0", "1", "4"}  # place in the list


def test_reset_keeps_the_fully_connected_layers() -> None:
    head = ClassifierHead(6, 4, fc_units=(5,))
    kept = head.fc_layers[0].weight
    head.reset(9)
    assert head.fc_layers[0].weight is kept and head.fc.weight.shape == (9, 5)


def test_maximum_over_height_and_width() -> None:
    head = ClassifierHead(6, 0, pooling="max")
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(head(x), x.amax((2, 3)))
    assert torch.equal(GlobalMaxPool2d()(x), nn.AdaptiveMaxPool2d(1)(x))


def test_places_of_one_maximum_share_its_gradient() -> None:
    x = torch.tensor([[1.0, 3.0], [3.0, 2.0]]).view(1, 1, 2, 2).requires_grad_()
    GlobalMaxPool2d()(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad.view(2, 2), torch.tensor([[0.0, 0.5], [0.5, 0.0]]))


def test_layers_in_the_order_of_their_texts() -> None:
    torch.manual_seed(0)
    head = randomized(ClassifierHead(6, 4, head_layers=LAYERS))
    x = torch.randn(2, 6, 3, 4)
    norm, first, second = head.fc_layers[0], head.fc_layers[1], head.fc_layers[4]
    hidden = (x.mean((2, 3)) - norm.running_mean) / (norm.running_var + 1e-3).sqrt()
    hidden = F.gelu((hidden * norm.weight + norm.bias) @ first.weight.T)
    hidden = F.leaky_relu(hidden @ second.weight.T + second.bias, 0.3)
    assert head.num_features == 16
    torch.testing.assert_close(head(x, pre_logits=True), hidden)
    torch.testing.assert_close(head(x), head.fc(hidden))
    assert head(x[:1]).shape == (1, 4)  # normalization does not mind a single picture in eval mode


def test_fully_connected_units_are_a_short_form() -> None:
    torch.manual_seed(0)
    short = ClassifierHead(6, 4, fc_units=(5, 3))
    long = ClassifierHead(6, 4, head_layers=("linear 5", "relu", "linear 3", "relu"))
    long.load_state_dict(short.state_dict())
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(short(x), long(x))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pooling": "min"}, r"pooling must be one of \('avg', 'max'\), got 'min'"),
        ({"pooling": None}, "pooling must be one of"),
        ({"fc_units": (5,), "head_layers": ("relu",)}, "fc_units and head_layers cannot be given"),
        ({"fc_units": ("5",)}, r"fc_units must be positive, got \('5',\)"),
        (
            {"head_layers": ("rely",)},
            "head_layers: 'rely' is not a layer; a layer is one of linear",
        ),
        ({"head_layers": "relu"}, "head_layers must be a list of texts, got the text 'relu'"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("xception_tiny", **arguments)


# ---------------------------------------------------------------- in a network


def test_a_new_last_layer_stands_on_the_same_features() -> None:
    model = tiny()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        assert features.shape == (2, 16) and model.get_classifier().in_features == 16
        assert torch.equal(model.get_classifier()(features), model(x))
        model.reset_classifier(9)
        assert model(x).shape == (2, 9)
        model.reset_classifier(0)
        assert torch.equal(model(x), features)
    assert model.architecture["args"]["head_layers"] == list(LAYERS)
    twin = create_model(model.architecture["name"], **model.architecture["args"])
    assert list(twin.state_dict()) == list(model.state_dict())
    assert model.num_features == 256  # of the feature map


def test_feature_maps_do_not_depend_on_the_head() -> None:
    extractor = create_model("xception_tiny", features_only=True, pooling="max", head_layers=LAYERS)
    assert not any("head" in name for name, _ in extractor.named_parameters())
    assert extractor(torch.randn(1, 3, 32, 32))[-1].shape[1] == 256


def test_the_table_and_the_figure_show_every_layer() -> None:
    model = tiny()
    rows = [row for row in summarize(model) if row.name.startswith("head.")]
    assert [(row.type, row.output_shape) for row in rows] == [
        ("GlobalMaxPool2d", (256, 1, 1)), ("Flatten", (256,)), ("BatchNorm1d", (256,)),
        ("Linear", (24,)), ("GELU", (24,)), ("Dropout", (24,)), ("Linear", (16,)),
        ("LeakyReLU", (16,)), ("Dropout", (16,)), ("Linear", (5,)),
    ]  # fmt: skip
    assert totals(summarize(model)).parameters == sum(p.numel() for p in model.parameters())
    steps = anatomy(model).flows[-1].blocks[-1].steps
    assert [step.text for step in steps] == [
        "ReLU", "Global max pool", "Batch normalization", "Linear 24", "GELU", "Dropout 0.5",
        "Linear 16", "LeakyReLU", "Linear 5",
    ]  # fmt: skip


def test_every_activation_has_a_step_in_the_figure() -> None:
    texts = (
        "relu", "relu6", "elu", "selu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "softplus",
        "softsign", "leaky_relu 0.1",
    )  # fmt: skip
    steps = anatomy(tiny(head_layers=texts)).flows[-1].blocks[-1].steps
    assert [step.kind for step in steps[2:-1]] == ["activation"] * len(texts)


def test_exports_and_compiles() -> None:
    torch.compiler.reset()
    model = tiny()
    x = torch.randn(2, 3, 30, 17)
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 2: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (x,), dynamic_shapes=(sizes,))
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert all(target.startswith(("aten.", "<built-in")) for target in targets), targets
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        for other in (x[:1], torch.randn(3, 3, 47, 17)):
            torch.testing.assert_close(program.module()(other), model(other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = tiny()
    features = torch.randn(2, 256, 4, 4)
    expected = model.forward_head(features)
    found = model.to(dtype).forward_head(features.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)


def test_every_layer_is_trained() -> None:
    model = tiny().train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


# ---------------------------------------------------------------- beside Keras


def test_a_head_of_keras_layers_gives_the_same(keras: Any) -> None:
    layers = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input((5, 7, 6)),
            layers.GlobalMaxPooling2D(),
            layers.BatchNormalization(epsilon=1e-3, momentum=0.99),
            layers.Dense(24, use_bias=False),
            layers.Activation("gelu"),
            layers.Dropout(0.5),
            layers.Dense(16),
            layers.LeakyReLU(negative_slope=0.3),
            layers.Dense(4),
        ]
    )
    torch.manual_seed(0)
    ours = randomized(ClassifierHead(6, 4, pooling="max", head_layers=LAYERS))
    norm, first, second, last = (ours.fc_layers[0], ours.fc_layers[1], ours.fc_layers[4], ours.fc)
    weights = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    weights += [first.weight.T, second.weight.T, second.bias, last.weight.T, last.bias]
    theirs.set_weights([w.detach().numpy() for w in weights])
    x = torch.randn(3, 6, 5, 7)
    found = theirs(x.permute(0, 2, 3, 1).numpy()).cpu()
    torch.testing.assert_close(ours(x), found, rtol=1e-5, atol=1e-5)
