"""Heads of Keras models: the same numbers come out, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from xception.models.head_layers import MAX_HEAD_LAYERS
from xception.weights.dialects.keras_import import recognise
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Layers = Callable[[Any], list[Any]]
PIXELS = torch.Generator().manual_seed(3)


@pytest.fixture
def imported_with(
    tiny_model: Callable[..., Any],
    keras: ModuleType,
    contents_of: Callable[[Path], FileContents],
    tmp_path: Path,
) -> Callable[[Layers], tuple[Any, Imported]]:
    def make(head: Layers) -> tuple[Any, Imported]:
        model = tiny_model(lambda: head(keras.layers))
        model.save(tmp_path / "model.keras")
        return model, recognise(contents_of(tmp_path / "model.keras"))

    return make


def pictures() -> Tensor:
    return torch.rand(3, 3, 24, 20, generator=PIXELS).double() * 2 - 1


PLAIN: dict[str, tuple[Layers, dict[str, Any]]] = {
    "one layer": (lambda k: [k.Dense(4)], {"fc_units": [], "dropout": 0.0}),
    "dropout": (lambda k: [k.Dropout(0.3), k.Dense(4)], {"fc_units": [], "dropout": 0.3}),
    "hidden": (
        lambda k: [k.Dense(9, activation="relu"), k.Dropout(0.25), k.Dense(4)],
        {"fc_units": [9], "dropout": 0.25},
    ),
    "two hidden": (
        lambda k: [k.Dense(9, "relu"), k.Dense(8), k.ReLU(), k.Dense(4)],
        {"fc_units": [9, 8]},
    ),
    "no bias": (
        lambda k: [k.Dense(9, "relu", use_bias=False), k.Dense(4)],
        {"head_layers": ["linear 9 nobias", "relu"]},
    ),
    "normalized": (
        lambda k: [
            k.Flatten(), k.BatchNormalization(epsilon=1e-5, momentum=0.9), k.Dropout(0.1),
            k.Dense(9), k.BatchNormalization(), k.Activation("gelu"), k.Dropout(0.5), k.Dense(4),
        ],
        {
            "head_layers": [
                "batchnorm 1e-05 0.1", "dropout 0.1", "linear 9", "batchnorm 0.001 0.01", "gelu",
                "dropout 0.5",
            ]
        },
    ),
    "two layers without activation": (
        lambda k: [k.Dense(9), k.Dense(4)],
        {"head_layers": ["linear 9"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_logits_are_kerass(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
    name: str,
) -> None:
    head, arguments = PLAIN[name]
    theirs, imported = imported_with(lambda k: [k.GlobalAveragePooling2D(), *head(k)])
    model = imported.model
    own = model.architecture["args"]
    assert {key: own[key] for key in arguments} == arguments
    assert own["num_classes"] == 4 and own["pooling"] == "avg"
    x = pictures()
    torch.testing.assert_close(model(x), keras_rows(theirs, x), rtol=0, atol=1e-12)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu6": lambda k: k.ReLU(max_value=6.0),
    "elu": lambda k: k.ELU(),
    "selu": lambda k: k.Activation("selu"),
    "silu": lambda k: k.Activation("swish"),
    "gelu": lambda k: k.Activation("gelu"),
    "tanh": lambda k: k.Activation("tanh"),
    "sigmoid": lambda k: k.Activation("sigmoid"),
    "softplus": lambda k: k.Activation("softplus"),
    "softsign": lambda k: k.Activation("softsign"),
    "leaky_relu 0.3": lambda k: k.LeakyReLU(0.3),
    "leaky_relu 0.2": lambda k: k.Activation("leaky_relu"),
    "leaky_relu 0.1": lambda k: k.ReLU(negative_slope=0.1),
}


def test_every_activation_between_layers(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
) -> None:
    def head(k: Any) -> list[Any]:
        made = [k.GlobalAveragePooling2D(), k.Dense(16)]
        for text, make in list(ACTIVATIONS.items())[:7]:
            made += [make(k)] if text != "relu6" else [k.Dense(16, activation=make(k))]
        return [*made, k.Dense(4)]

    def others(k: Any) -> list[Any]:
        made = [make(k) for make in list(ACTIVATIONS.values())[7:]]
        return [k.GlobalAveragePooling2D(), k.Dense(16), *made, k.Dense(4)]

    texts: list[str] = []
    for layers in (head, others):
        theirs, imported = imported_with(layers)
        x = pictures()
        torch.testing.assert_close(imported.model(x), keras_rows(theirs, x), rtol=0, atol=1e-12)
        texts += imported.model.architecture["args"]["head_layers"]
    assert set(ACTIVATIONS) == {text for text in texts if not text.startswith("linear")}


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("flat", [True, False])
def test_pooling(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
    pooling: str,
    flat: bool,
) -> None:
    def head(k: Any) -> list[Any]:
        pool = k.GlobalAveragePooling2D if pooling == "avg" else k.GlobalMaxPooling2D
        return [pool(keepdims=flat), *([k.Flatten()] if flat else []), k.Dense(4)]

    theirs, imported = imported_with(head)
    assert imported.model.architecture["args"]["pooling"] == pooling
    x = pictures()
    torch.testing.assert_close(imported.model(x), keras_rows(theirs, x), rtol=0, atol=1e-12)


SOFTMAX: list[Layers] = [
    lambda k: [k.Dense(4, activation="softmax")],
    lambda k: [k.Dense(4), k.Softmax()],
    lambda k: [k.Dense(4), k.Activation("softmax")],
    lambda k: [k.Dense(4), k.Dropout(0.1), k.Activation("softmax")],
]


@pytest.mark.parametrize("head", SOFTMAX)
def test_a_softmax_at_the_end_is_left_away(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
    head: Layers,
) -> None:
    theirs, imported = imported_with(lambda k: [k.GlobalAveragePooling2D(), *head(k)])
    assert any("softmax at the end is left away" in c for c in imported.report.choices)
    x = pictures()
    probabilities = imported.model(x).softmax(dim=1)
    torch.testing.assert_close(probabilities, keras_rows(theirs, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_output_becomes_two_classes(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
    activation: str | None,
) -> None:
    theirs, imported = imported_with(
        lambda k: [k.GlobalAveragePooling2D(), k.Dropout(0.2), k.Dense(1, activation=activation)]
    )
    model = imported.model
    assert model.num_classes == 2
    assert any("first always 0" in choice for choice in imported.report.choices)
    x = pictures()
    z = keras_rows(theirs, x)
    p = z if activation else z.sigmoid()
    expected = torch.cat([1 - p, p], dim=1)
    torch.testing.assert_close(model(x).softmax(dim=1), expected, rtol=0, atol=1e-12)
    assert (model(x)[:, 0] == 0).all()


def test_several_sigmoids_give_logits(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
) -> None:
    theirs, imported = imported_with(
        lambda k: [k.GlobalAveragePooling2D(), k.Dense(4, activation="sigmoid")]
    )
    assert any("independent probabilities" in choice for choice in imported.report.choices)
    x = pictures()
    found = imported.model(x).sigmoid()
    torch.testing.assert_close(found, keras_rows(theirs, x), rtol=0, atol=1e-12)


def test_a_last_layer_without_bias_gets_zeros(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
) -> None:
    theirs, imported = imported_with(
        lambda k: [k.GlobalAveragePooling2D(), k.Dense(4, use_bias=False)]
    )
    assert any("has no bias: zeros" in choice for choice in imported.report.choices)
    x = pictures()
    torch.testing.assert_close(imported.model(x), keras_rows(theirs, x), rtol=0, atol=1e-12)


FEATURES: list[Layers] = [
    lambda k: [],
    lambda k: [k.Dropout(0.2)],
    lambda k: [k.Dense(5, activation="relu")],
    lambda k: [k.Dense(5), k.BatchNormalization(), k.Dropout(0.2)],
]


@pytest.mark.parametrize("head", FEATURES)
def test_what_ends_before_classes_gives_features(
    imported_with: Callable[[Layers], tuple[Any, Imported]],
    keras_rows: Callable[[Any, Tensor], Tensor],
    head: Layers,
) -> None:
    theirs, imported = imported_with(lambda k: [k.GlobalMaxPooling2D(), *head(k)])
    assert imported.model.num_classes == 0
    assert any("features come out" in choice for choice in imported.report.choices)
    x = pictures()
    torch.testing.assert_close(imported.model(x), keras_rows(theirs, x), rtol=0, atol=1e-12)


REFUSED: dict[str, tuple[Layers, str]] = {
    "no pooling": (
        lambda k: [k.Flatten(), k.Dense(4)],
        r"its layer 'flatten.*' \(Flatten\) stands where a global average or maximum",
    ),
    "kept axes": (lambda k: [k.GlobalAveragePooling2D(keepdims=True), k.Dense(4)], "keeps the ax"),
    "unknown activation": (
        lambda k: [k.GlobalAveragePooling2D(), k.Dense(5, activation="mish"), k.Dense(4)],
        "'mish' is not a layer",
    ),
    "softmax within": (
        lambda k: [k.GlobalAveragePooling2D(), k.Dense(5, activation="softmax"), k.Dense(4)],
        "takes a softmax within the head",
    ),
    "norm without shift": (
        lambda k: [k.GlobalAveragePooling2D(), k.BatchNormalization(center=False), k.Dense(4)],
        "normalizes without scale or shift",
    ),
    "layers beyond all sense": (
        lambda k: [k.GlobalAveragePooling2D(), *(k.Dense(5) for _ in range(MAX_HEAD_LAYERS + 2))],
        f"head_layers may be {MAX_HEAD_LAYERS} at most|head_layers cannot be",
    ),
    "a layer not known": (
        lambda k: [k.GlobalAveragePooling2D(), k.Reshape((4, 64)), k.Flatten(), k.Dense(4)],
        r"its layer 'reshape.*' is a Reshape, which no network here has",
    ),
    "a convolution": (
        lambda k: [k.Conv2D(8, 3, padding="same"), k.GlobalAveragePooling2D(), k.Dense(4)],
        r"\(Conv2D\) stands where a global",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_heads_without_an_equal(
    imported_with: Callable[[Layers], tuple[Any, Imported]], name: str
) -> None:
    head, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        imported_with(head)
    assert "\n" not in str(caught.value)


def test_a_branch_in_the_head_is_refused(
    keras: ModuleType,
    tiny_body: Callable[[Any], Any],
    contents_of: Callable[[Path], FileContents],
    tmp_path: Path,
) -> None:
    inputs = keras.Input((24, 20, 3))
    x = keras.layers.GlobalAveragePooling2D()(tiny_body(inputs))
    a, b = keras.layers.Dense(4)(x), keras.layers.Dense(4)(x)
    keras.Model(inputs, keras.layers.Add()([a, b])).save(tmp_path / "two.keras")
    with pytest.raises(ValueError, match=r"'dense_\d+' \(Dense\) also reads layer 'global_average"):
        recognise(contents_of(tmp_path / "two.keras"))
    keras.Model(inputs, [a, b]).save(tmp_path / "outputs.keras")
    with pytest.raises(ValueError, match="a Keras model with 2 outputs; the networks here have"):
        recognise(contents_of(tmp_path / "outputs.keras"))
