"""Keras's many ways to write one activation, as one short text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from xception.weights.dialects.keras_call import is_of_keras, shown
from xception.weights.wording import quoted

LINEAR = "linear"
LAYERS = frozenset({"Activation", "ReLU", "LeakyReLU", "ELU", "Softmax"})
_SAME = {"swish": "silu", "": LINEAR}
_FUNCTION_SLOPE = 0.2  # of leaky_relu where Keras 3 names it by text; its layer's is 0.3
_LAYER_SLOPE = 0.3


def activation_text(value: Any) -> str:
    """What `activation` says in a layer's configuration: "relu", "leaky_relu 0.2", "linear".

    value: a name, None, or an object of Keras's (a function, or a layer of `LAYERS`)
    Raises ValueError, the end of "its layer X ...", for code of the file's own and for anything
    that is no activation.
    """
    if value is None:
        return LINEAR
    if isinstance(value, str):
        name = value.lower()
        if not re.fullmatch(r"[a-z0-9_]*", name):  # else it could say another layer of the head
            raise ValueError(f"has an activation that cannot be understood ({shown(value)})")
        if name == "leaky_relu":
            return f"leaky_relu {_FUNCTION_SLOPE}"
        return _SAME.get(name, name)
    if isinstance(value, Mapping):
        kind, config = value.get("class_name"), value.get("config")
        if isinstance(kind, str) and is_of_keras(value):
            if kind == "function" and isinstance(config, str):
                return activation_text(config)
            if kind in LAYERS and isinstance(config, Mapping):
                return layer_text(kind, config)
        if isinstance(kind, str):
            raise ValueError(
                f"has an activation of its own ({quoted(kind)}), whose code is not run"
            )
    raise ValueError(f"has an activation that cannot be understood ({shown(value)})")


def layer_text(kind: str, config: Mapping[str, Any]) -> str:
    """The same for a layer of `LAYERS` that does nothing but activate."""
    if kind == "Activation":
        return activation_text(config.get("activation"))
    if kind == "Softmax":
        if config.get("axis", -1) not in (-1, 1, [-1], [1]):
            raise ValueError(
                f"takes a softmax along axis {shown(config.get('axis'))}, not the last"
            )
        return "softmax"
    if kind == "LeakyReLU":
        slope = config.get("negative_slope", config.get("alpha", _LAYER_SLOPE))
        return f"leaky_relu {_number(slope, 'slope')!r}"
    if kind == "ELU":
        if _number(config.get("alpha", 1.0), "alpha") != 1:
            raise ValueError(f"is an ELU of alpha {shown(config.get('alpha'))}, where 1 is known")
        return "elu"
    return _relu_text(config)


def _relu_text(config: Mapping[str, Any]) -> str:
    slope = _number(config.get("negative_slope") or 0.0, "slope")
    threshold = _number(config.get("threshold") or 0.0, "threshold")
    top = config.get("max_value")
    if threshold == 0 and slope == 0 and (top is None or _number(top, "max_value") == 6):
        return "relu" if top is None else "relu6"
    if threshold == 0 and top is None:
        return f"leaky_relu {slope!r}"
    raise ValueError("is a ReLU with a threshold or an upper bound that no network here has")


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"has a {what} that is no number ({shown(value)})")
    return float(value)
