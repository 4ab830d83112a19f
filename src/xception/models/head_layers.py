"""The layers that may stand between pooling and classes, each written as a short text.

    "linear 256", "batchnorm 0.001 0.01", "relu", "dropout 0.5"

Such a text may come from a model file, and so from anybody: it is compared with the few forms
below, its numbers are bounded, and nothing in it is evaluated.

The activations are those that Keras and torch compute alike. Keras's hard_sigmoid is left out since
its name means two functions: clip(0.2 x + 0.5, 0, 1) in Keras 2, relu6(x + 3) / 6 in Keras 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

MAX_HEAD_LAYERS = 32
MAX_UNITS = 2**20  # of one linear layer
MAX_TEXT = 64  # characters of one layer

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
}
_FORMS = (
    f"linear N or linear N nobias (N in 1..{MAX_UNITS})",
    "batchnorm EPS MOMENTUM (above 0; MOMENTUM at most 1)",
    "dropout P (at least 0, below 1)",
    "leaky_relu SLOPE (at least 0)",
    *_ACTIVATIONS,
)
_COUNT = re.compile(r"[1-9][0-9]{0,6}")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")  # what repr() makes of a float


def make_head_layers(texts: Sequence[str], features: int) -> tuple[nn.Sequential, int]:
    """The layers for (N, features), in order, and how many features come out of them.

    linear N [nobias]: `torch.nn.Linear`
    batchnorm EPS MOMENTUM: `torch.nn.BatchNorm1d` over the features; MOMENTUM is the share of a
        new batch in the running statistics (1 - Keras's)
    dropout P: `torch.nn.Dropout`, P the probability of dropping a value
    leaky_relu SLOPE: SLOPE is that of negative values
    relu, relu6, elu, selu, gelu (exact), gelu_tanh (its approximation), silu, tanh, sigmoid,
        softplus, softsign: torch's, with its defaults

    Raises ValueError with the text that is none of these, or when there are more than
    `MAX_HEAD_LAYERS`.
    """
    if isinstance(texts, str):
        raise ValueError(f"head_layers must be a list of texts, got the text {_shown(texts)}")
    if len(texts) > MAX_HEAD_LAYERS:
        raise ValueError(f"head_layers may be {MAX_HEAD_LAYERS} at most, got {len(texts)}")
    layers = nn.Sequential()
    for text in texts:
        layer = _make_layer(text, features)
        layers.append(layer)
        if isinstance(layer, nn.Linear):
            features = layer.out_features
    return layers, features


def _make_layer(text: str, features: int) -> nn.Module:
    """None works in place: hooks, and the gradients of the layer before, see what they saw."""
    unknown = ValueError(
        f"head_layers: {_shown(text)} is not a layer; a layer is one of {', '.join(_FORMS)}"
    )
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise unknown
    if text in _ACTIVATIONS:
        return _ACTIVATIONS[text]()
    name, *words = text.split(" ")
    numbers = [_number(word) for word in words]
    match name, numbers:
        case "dropout", [p] if 0 <= p < 1:
            return nn.Dropout(p)
        case "leaky_relu", [slope] if 0 <= slope < math.inf:
            return nn.LeakyReLU(slope)
        case "batchnorm", [eps, momentum] if 0 < eps < math.inf and 0 < momentum <= 1:
            return nn.BatchNorm1d(features, eps=eps, momentum=momentum)
        case "linear", [units, *_] if 1 <= units <= MAX_UNITS and _COUNT.fullmatch(words[0]):
            if words[1:] in ([], ["nobias"]):
                return nn.Linear(features, int(words[0]), bias=len(words) == 1)
    raise unknown


def _number(word: str) -> float:
    """NaN, which lies in no range, for what is not a number."""
    return float(word) if _NUMBER.fullmatch(word) else math.nan


def _shown(text: object) -> str:
    shown = repr(text[:MAX_TEXT] if isinstance(text, str) else text)
    return shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + "..."
