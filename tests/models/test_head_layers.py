"""Layers written as short texts: what each computes, and that nothing else is a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.models.head_layers import MAX_HEAD_LAYERS, MAX_TEXT, MAX_UNITS, make_head_layers


def only(text: str, features: int = 5) -> nn.Module:
    layers, _ = make_head_layers([text], features)
    (layer,) = layers
    return layer


def gaussian(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "leaky_relu 0.3": lambda x: torch.where(x > 0, x, 0.3 * x),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "selu": lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * x.expm1()),
    "gelu": lambda x: x * gaussian(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()),
    "silu": lambda x: x / (1 + (-x).exp()),
    "tanh": lambda x: 1 - 2 / ((2 * x).exp() + 1),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "softsign": lambda x: x / (1 + x.abs()),
}
KERAS = {  # text: name of Keras's function, its arguments
    "leaky_relu 0.3": ("leaky_relu", {"negative_slope": 0.3}),
    "gelu_tanh": ("gelu", {"approximate": True}),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_activations_are_those_of_their_formulas(text: str) -> None:
    x = torch.linspace(-8, 30, 1001, dtype=torch.float64)
    torch.testing.assert_close(only(text)(x), FORMULAS[text](x), rtol=2e-10, atol=1e-14)


@pytest.mark.parametrize("text", FORMULAS)
def test_activations_are_keras_activations(text: str, keras: Any) -> None:
    x = torch.linspace(-30, 30, 1001)
    name, arguments = KERAS.get(text, (text, {}))
    theirs = getattr(keras.activations, name)(x.numpy(), **arguments).cpu()
    torch.testing.assert_close(only(text)(x), theirs, rtol=1e-6, atol=1e-6)


def test_layers_with_numbers() -> None:
    layers, features = make_head_layers(
        ["linear 7", "batchnorm 1e-05 0.01", "dropout 0.25", "linear 3 nobias", "leaky_relu 0.2"], 5
    )
    assert features == 3
    first, norm, dropout, second, leaky = layers
    assert isinstance(first, nn.Linear) and first.weight.shape == (7, 5) and first.bias is not None
    assert isinstance(norm, nn.BatchNorm1d)
    assert (norm.num_features, norm.eps, norm.momentum) == (7, 1e-5, 0.01)
    assert isinstance(dropout, nn.Dropout) and dropout.p == 0.25
    assert isinstance(second, nn.Linear) and second.weight.shape == (3, 7) and second.bias is None
    assert isinstance(leaky, nn.LeakyReLU) and leaky.negative_slope == 0.2


def test_numbers_come_back_as_they_were_written() -> None:
    for eps, momentum in ((1e-3, 1 - 0.99), (1.1e-7, 1.0), (0.30000000000000004, 5e-324)):
        norm = only(f"batchnorm {eps} {momentum}")
        assert isinstance(norm, nn.BatchNorm1d) and (norm.eps, norm.momentum) == (eps, momentum)


@pytest.mark.parametrize("before", [*FORMULAS, "batchnorm 0.001 0.1", "dropout 0.5", "linear 5"])
def test_no_layer_spoils_the_gradient_of_another(before: str) -> None:
    for after in (*FORMULAS, "dropout 0.5"):
        layers, _ = make_head_layers([before, after], 5)
        x = torch.randn(4, 5, requires_grad=True)
        kept = x.detach().clone()
        layers(x).sum().backward()
        assert x.grad is not None and torch.equal(x.detach(), kept)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "relu ", " relu", "ReLU", "relu 1", "relu\n", "relu6 6", "linear", "linear ",
        "linear 0", "linear -1", "linear 1.0", "linear 1e3", "linear +5", "linear 05",
        "linear  5", "linear 5 ", "linear 5 bias", "linear 5 6", "linear 5 nobias nobias",
        "linear nobias", "linear 1_0", "linear \u0665", f"linear {MAX_UNITS + 1}",
        "linear " + "9" * 50, "dropout", "dropout 1", "dropout 1.0", "dropout -0.1",
        "dropout nan", "dropout .5", "dropout 0.1 0.2", "dropout 5e-1x", "leaky_relu",
        "leaky_relu -0.1", "leaky_relu inf", "leaky_relu 1e999", "batchnorm", "batchnorm 0.001",
        "batchnorm 0 0.1", "batchnorm 0.001 0", "batchnorm 0.001 1.5", "batchnorm 1e999 0.1",
        "batchnorm 0.001 0.1 0.1", "hard_sigmoid", "softmax", "exponential", "__import__('os')",
        "gelu" * 100, "linear 5" + " " * 10**6, 5, None, ["relu"], b"relu",
    ],
)  # fmt: skip
def test_what_is_not_a_layer_is_named_with_what_is(text: Any) -> None:
    with pytest.raises(ValueError) as caught:
        make_head_layers(["relu", text], 5)
    line = str(caught.value)
    assert line.startswith("head_layers: ") and "is not a layer; a layer is one of linear N" in line
    assert line.startswith(f"head_layers: {repr(text)[:20]}"[:-1])
    assert "\n" not in line and len(line) < 500
    for allowed in ("batchnorm EPS MOMENTUM", "dropout P", "leaky_relu SLOPE", *FORMULAS):
        assert allowed.split(" ")[0] in line


def test_their_number_is_bounded() -> None:
    layers, _ = make_head_layers(["relu"] * MAX_HEAD_LAYERS, 5)
    assert len(layers) == MAX_HEAD_LAYERS
    with pytest.raises(ValueError, match="head_layers may be 32 at most, got 33"):
        make_head_layers(["relu"] * 33, 5)
    with torch.device("meta"):
        assert make_head_layers([f"linear {MAX_UNITS}"], 5)[1] == MAX_UNITS


def test_one_text_is_no_list_of_texts() -> None:
    with pytest.raises(
        ValueError, match="head_layers must be a list of texts, got the text 'relu'"
    ):
        make_head_layers("relu", 5)
    with pytest.raises(ValueError) as caught:
        make_head_layers("relu " * 10**5, 5)
    assert len(str(caught.value)) < 3 * MAX_TEXT
