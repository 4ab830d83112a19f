"""A stranger's Keras configuration without anything that Keras would look up or run.

Only for a configuration that `keras_import.recognise` has accepted, whose layers are known. What a
layer needs to compute are numbers and names; initializers, regularizers, constraints and types are
objects, which older Keras builds by module and class name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xception.weights.dialects.keras_activation import activation_text

_MODULES = {"Functional": "keras.src.models.functional", "Model": "keras", "Sequential": "keras"}
_MODELS = frozenset(_MODULES)
# Arithmetic written in a model's definition, as that of preprocess_input, is saved as these.
_ARITHMETIC = frozenset(("Add", "Divide", "Multiply", "Subtract", "TrueDivide"))
_ACTIVATIONS = ("activation", "recurrent_activation")
MAX_DEPTH = 60  # a model within a model takes some 8


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same model with defaults in the place of objects, and always out of training.

    Raises ValueError when an activation is no name, or the nesting is too deep.
    """
    return _layer(config, 0)


def _layer(entry: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise ValueError("nests its models too deeply")
    kept = {
        name: entry[name]
        for name in ("class_name", "name", "module", "registered_name", "build_config")
        if name in entry
    }
    if "module" in kept:  # where Keras would import the class from
        kept["module"] = _module(entry)
        kept["registered_name"] = None
    if "inbound_nodes" in entry:
        kept["inbound_nodes"] = _without_training(entry["inbound_nodes"], depth)
    config = entry.get("config")
    is_model = entry.get("class_name") in _MODELS
    if is_model and isinstance(config, list):  # Sequential of the first Keras 2
        kept["config"] = [_layer(layer, depth + 1) for layer in config]
    elif isinstance(config, Mapping):
        kept["config"] = _settings(config, depth)
        if is_model:
            kept["config"]["layers"] = [_layer(layer, depth + 1) for layer in config["layers"]]
    return kept


def _module(entry: Mapping[str, Any]) -> str:
    """One of a few fixed names; the file only tells arithmetic from the layer of that name."""
    name = entry["class_name"]
    if name in _ARITHMETIC and str(entry["module"]).startswith("keras.src.ops"):
        return "keras.src.ops.numpy"
    return _MODULES.get(name, "keras.layers")


def _settings(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if name in _ACTIVATIONS:
            text = activation_text(value)
            settings[name] = "leaky_relu" if text.startswith("leaky_relu") else text
        elif not isinstance(value, Mapping) and name not in ("layers", "dtype"):
            settings[name] = value
    return settings


def _without_training(nodes: Any, depth: int) -> Any:
    """Random layers and batch normalization as in inference, whatever their calls say."""
    if depth > MAX_DEPTH:
        raise ValueError("nests its calls too deeply")
    if isinstance(nodes, Mapping):
        return {
            name: _without_training(value, depth + 1)
            for name, value in nodes.items()
            if name not in ("training", "mask")
        }
    if isinstance(nodes, list):
        return [_without_training(node, depth + 1) for node in nodes]
    return nodes
