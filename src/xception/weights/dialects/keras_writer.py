"""A graph of Keras layers as the files that Keras 3 reads, written without Keras itself.

A `.keras` file is a zip archive of config.json (the layers and how they are connected),
metadata.json and model.weights.h5. In the HDF5 file a layer lies under its class's name and a
number that counts the layers of that class in the order of `model.layers`, which is Keras's own
sorting of the graph by depth: layers are given here in that order (`keras_plan.keras_order`).
Source: Keras 3's saving library and functional API, by their behaviour.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy.typing as npt

from xception.weights.dialects.keras_places import snake_case

KERAS_VERSION = "3.0.0"  # the oldest whose files these are
_DATE = (1980, 1, 1, 0, 0, 0)  # of archive members: the same model gives the same bytes

Shape = tuple[int, ...]  # height, width, channels, or features; without the batch


@dataclass(eq=False, kw_only=True, slots=True)
class KerasLayer:
    """One layer: Keras's class and arguments, what goes in, what comes out, its weights."""

    class_name: str
    name: str
    config: dict[str, Any]
    inputs: tuple[KerasLayer, ...]
    shape: Shape
    weights: tuple[npt.NDArray[Any], ...] = field(default=(), repr=False)


def write_keras_archive(
    file: BinaryIO, layers: Sequence[KerasLayer], model_name: str, notes: dict[str, Any]
) -> None:
    """Write a model as a `.keras` file.

    layers: in Keras's order, the output last
    notes: what goes into metadata.json beside Keras's own entries, which Keras passes over
    """
    weights = io.BytesIO()
    write_keras_weights(weights, layers)
    members: dict[str, bytes] = {
        "metadata.json": json.dumps({"keras_version": KERAS_VERSION, **notes}).encode(),
        "config.json": json.dumps(_model_config(layers, model_name)).encode(),
        "model.weights.h5": weights.getvalue(),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)


def write_keras_weights(file: BinaryIO, layers: Sequence[KerasLayer]) -> None:
    """Write the weights of a model, its layers in Keras's order, as a `.weights.h5` file."""
    import h5py

    counts: dict[str, int] = {}
    with h5py.File(file, "w") as h5:
        for layer in layers:
            kind = snake_case(layer.class_name)
            number = counts.get(kind, 0)
            counts[kind] = number + 1
            path = f"layers/{kind}_{number}" if number else f"layers/{kind}"
            group = h5.create_group(f"{path}/vars")
            group.attrs["name"] = layer.name
            for index, values in enumerate(layer.weights):
                group.create_dataset(str(index), data=values)


def _model_config(layers: Sequence[KerasLayer], model_name: str) -> dict[str, Any]:
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": model_name,
            "trainable": True,
            "layers": [_layer_config(layer) for layer in layers],
            "input_layers": [[layer.name, 0, 0] for layer in layers if not layer.inputs],
            "output_layers": [[layers[-1].name, 0, 0]],
        },
        "registered_name": "Functional",
    }


def _layer_config(layer: KerasLayer) -> dict[str, Any]:
    described: dict[str, Any] = {
        "module": "keras.layers",
        "class_name": layer.class_name,
        "config": {"name": layer.name, "dtype": "float32", **layer.config},
        "registered_name": None,
        "name": layer.name,
        "inbound_nodes": [],
    }
    if layer.inputs:
        tensors = [_tensor_config(source) for source in layer.inputs]
        argument = tensors[0] if len(tensors) == 1 else tensors
        described["inbound_nodes"] = [{"args": [argument], "kwargs": {}}]
        shapes = [_batched(source.shape) for source in layer.inputs]
        described["build_config"] = {"input_shape": shapes[0] if len(shapes) == 1 else shapes}
    return described


def _tensor_config(layer: KerasLayer) -> dict[str, Any]:
    return {
        "class_name": "__keras_tensor__",
        "config": {
            "shape": _batched(layer.shape),
            "dtype": "float32",
            "keras_history": [layer.name, 0, 0],
        },
    }


def _batched(shape: Sequence[int]) -> list[int | None]:
    return [None, *shape]
