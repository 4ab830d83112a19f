"""A network of ours as Keras layers with the same numbers, for the files that Keras 3 reads.

The layers of the paper's network bear the names they have in `keras.applications.Xception`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from xception.models import Classifier
from xception.weights.dialects.keras_plan import INPUT, ROLES, PlannedLayer, keras_order, plan_of
from xception.weights.dialects.keras_writer import KerasLayer, Shape


def to_keras(model: Classifier, *, softmax: bool = True) -> list[KerasLayer]:
    """A Keras model that computes what `model` does in evaluation: its layers, the output last.

    softmax: end in probabilities, as Keras's own classifiers do; False: in logits
    Weights are float32 (16-bit ones are widened, which changes no value). The input has the size
    of the model's preprocessing and takes numbers that are scaled already, as
    `keras.applications.xception.preprocess_input` does. The order is that of `model.layers` there.

    Raises ValueError, as the end of a sentence that begins with the model's name, when Keras has no
    equal for a layer or setting.
    """
    wide = [n for n, p in model.named_parameters() if p.dtype == torch.float64]
    if wide:
        raise ValueError(f"has 64-bit weights ({wide[0]}), which Keras would round; use .float()")
    plan = plan_of(model, with_head=True)
    if softmax and model.num_classes > 1:
        _end_in_softmax(plan)
    height, width = model.preprocessing.size
    shape = (height, width, model.in_channels)
    picture = KerasLayer(
        class_name="InputLayer",
        name="input_layer",
        config={"batch_shape": [None, *shape], "sparse": False},
        inputs=(),
        shape=shape,
    )
    names, tensors = _KerasNames(model), model.state_dict()
    layers = {INPUT: picture}
    for index, planned in enumerate(plan):
        inputs = tuple(layers[source] for source in planned.inputs)
        layers[index] = KerasLayer(
            class_name="ELU" if planned.settings.get("activation") == "elu" else planned.kind,
            name=names(planned.path),
            config=_config(planned, model, inputs[0].shape),
            inputs=inputs,
            shape=_shape(planned, inputs[0].shape),
            weights=_weights(planned, tensors),
        )
    return [picture, *(layers[index] for index in keras_order(plan))]


def _end_in_softmax(plan: list[PlannedLayer]) -> None:
    softmax = {"activation": "softmax"}
    if plan[-1].kind == "Dense":
        plan[-1] = dataclasses.replace(plan[-1], settings={**plan[-1].settings, **softmax})
    else:
        last = (len(plan) - 1,)
        path = "predictions_softmax"
        plan.append(PlannedLayer(kind="Activation", path=path, settings=softmax, inputs=last))


class _KerasNames:
    """From a module's name in the state dict to the layer's name in Keras."""

    def __init__(self, model: Classifier) -> None:
        flows = [name for name, _ in model.stages() if re.fullmatch(r"\w+_flow\.\d+", name)]
        # block1 is the stem; what follows the last block counts as one more.
        self._numbers = {name: number for number, name in enumerate(flows, start=2)}
        self._tail = len(flows) + 2
        self._taken: set[str] = set()

    def __call__(self, path: str) -> str:
        name = self._keras_name(path)
        if name in self._taken:
            name = path.replace(".", "_")
        self._taken.add(name)
        return name

    def _keras_name(self, path: str) -> str:
        if path in _HEAD_NAMES:
            return _HEAD_NAMES[path]
        if stem := re.fullmatch(r"stem\.(conv|norm|act)(\d)", path):
            return f"block1_conv{stem[2]}" + _SUFFIXES[stem[1]]
        if unit := re.fullmatch(r"(\w+_flow\.\d+)\.units\.(\d+)\.(act|conv|norm)", path):
            block = self._numbers[unit[1]]
            return f"block{block}_sepconv{int(unit[2]) + 1}" + _SUFFIXES[unit[3]]
        if part := re.fullmatch(r"(\w+_flow\.\d+)\.(pool|add)", path):
            return f"block{self._numbers[part[1]]}_{part[2]}"
        if skip := re.fullmatch(r"(\w+_flow\.\d+)\.skip\.(conv|norm)", path):
            return f"block{self._numbers[skip[1]]}_skip" + _SUFFIXES[skip[2]]
        if tail := re.fullmatch(r"tail\.(\d+)(?:\.(conv|norm))?", path):
            number = int(tail[1]) // 2 + 1
            suffix = _SUFFIXES[tail[2] or "act"]
            return f"block{self._tail}_sepconv{number}" + suffix
        return path.replace(".", "_")


_SUFFIXES = {"conv": "", "norm": "_bn", "act": "_act"}
_HEAD_NAMES = {
    "head.pool": "avg_pool",
    "head.dropout": "dropout",
    "head.fc": "predictions",
}


def _config(planned: PlannedLayer, model: Classifier, shape: Shape) -> dict[str, Any]:
    """What Keras's configuration says: what was planned, and what only a trained network tells.

    shape: of the layer's first input
    """
    if planned.kind == "BatchNormalization":
        return _normalization(planned, model)
    if planned.kind == "MaxPooling2D":
        _check_pool(planned, model, shape)
    if planned.settings.get("activation") == "elu":
        return {"alpha": 1.0}
    config: dict[str, Any] = {}
    for name, value in planned.settings.items():
        config[name] = value
        if name == "use_bias":  # Keras's convolutions and dense layers all have one
            config["activation"] = planned.settings.get("activation", "linear")
    return config


def _normalization(planned: PlannedLayer, model: Classifier) -> dict[str, Any]:
    norm = model.get_submodule(planned.path)
    assert isinstance(norm, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)
    if norm.momentum is None or norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"cannot go to Keras: {planned.path} keeps no moving statistics")
    settings = dict(planned.settings)
    return {
        "axis": settings.pop("axis"),
        "momentum": round(1 - norm.momentum, 12),  # 0.99, not 0.99000000000000001
        "epsilon": norm.eps,
        **settings,
    }


def _check_pool(planned: PlannedLayer, model: Classifier, shape: Shape) -> None:
    height, width, _ = shape
    strides = planned.settings["strides"]
    padding = model.get_submodule(planned.path).padding
    if padding == "torch" and strides == (2, 2) and (height % 2 == 0 or width % 2 == 0):
        raise ValueError(
            f"cannot go to Keras exactly: {planned.path} pads {height}x{width} on both sides "
            "(padding='torch'), Keras at the end only, which gives other numbers"
        )


def _shape(planned: PlannedLayer, shape: Shape) -> Shape:
    """The shape of a layer's output from that of its first input."""
    settings = planned.settings
    if planned.kind == "Dense":
        return (settings["units"],)
    if planned.kind.startswith("Global"):
        return shape[-1:]
    if planned.kind == "ZeroPadding2D":
        sides = [size + sum(zeros) for size, zeros in zip(shape, settings["padding"])]
        return (*sides, shape[-1])
    if "strides" not in settings:
        return shape
    channels = settings.get("filters", shape[-1] * settings.get("depth_multiplier", 1))
    strides = settings["strides"]
    if settings["padding"] == "same":
        return (*(math.ceil(size / s) for size, s in zip(shape, strides)), channels)
    reach = [d * (k - 1) for d, k in zip(settings["dilation_rate"], settings["kernel_size"])]
    return (*((size - r - 1) // s + 1 for size, r, s in zip(shape, reach, strides)), channels)


def _weights(planned: PlannedLayer, tensors: Mapping[str, Tensor]) -> tuple[npt.NDArray[Any], ...]:
    """Their numbers in Keras's order of weights and of axes."""
    roles = (*ROLES.get(planned.kind, ()), "bias")
    return tuple(
        _turned(tensors[name], role, planned).detach().float().cpu().contiguous().numpy()
        for name, role in zip(planned.weights, roles)
    )


def _turned(tensor: Tensor, role: str, planned: PlannedLayer) -> Tensor:
    """Legend: h, w height and width; c, o channels in and out; m filters a channel."""
    if role == "kernel" and planned.kind == "Dense":
        return tensor.T  # (o, c) -> (c, o)
    if role == "depthwise_kernel":
        by_channel = tensor.reshape(-1, planned.settings["depth_multiplier"], *tensor.shape[2:])
        return by_channel.permute(2, 3, 0, 1)  # (c * m, 1, h, w) -> (h, w, c, m)
    if role in ("kernel", "pointwise_kernel"):
        return tensor.permute(2, 3, 1, 0)  # (o, c, h, w) -> (h, w, c, o)
    return tensor
