"""What a Keras model does to its pictures before the first convolution, as our preprocessing.

Scaling layers become mean and std; what changes pictures at random does so in training only and is
left away. Nothing of it stays in the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from xception.models import Preprocessing
from xception.models.preprocessing import MAX_SIDE
from xception.weights.dialects.keras_call import TENSOR, shown
from xception.weights.dialects.keras_graph import CONVOLUTIONS, RANDOM, Graph, Node
from xception.weights.wording import PICTURES_UNSAID

_INTERPOLATIONS = {
    "nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos3": "lanczos",
    "lanczos5": "lanczos", "area": "box",
}  # fmt: skip
_MAX_CHANNELS = 64  # of a picture
_LEAST_DEVIATION = 1e-7  # Keras's: what Normalization divides by is never smaller

UNSAID_SCALE = (
    f"{PICTURES_UNSAID} scaled: x / 127.5 - 1, as keras.applications.xception.preprocess_input does"
)

_Numbers = tuple[Fraction, ...]  # one a channel, or one for all


@dataclass(kw_only=True, slots=True)
class Pictures:
    """What the layers before the network say.

    last: index of the node that the network reads
    scale, offset: of values in 0..255; None where the file has no such layer
    size: height and width from a Resizing layer, or of the input, None where they are open
    used: nodes that are accounted for; notes: sentences for the report
    """

    last: int = 0
    scale: _Numbers | None = None
    offset: _Numbers | None = None
    size: tuple[int, int] | None = None
    resize: str | None = None
    interpolation: str = "bilinear"
    used: set[int] = field(default_factory=lambda: {0})
    notes: list[str] = field(default_factory=list)


def read_pictures(graph: Graph, tensors: Mapping[str, Tensor]) -> Pictures:
    """Follow the layers from the input to the first convolution.

    tensors: the file's, for the statistics of a Normalization layer
    Raises ValueError naming the layer that preprocessing cannot express.
    """
    height, width, _ = graph.input_shape
    pictures = Pictures()
    if height is not None and width is not None:
        pictures.size = (height, width)
    scaled: list[str] = []
    while True:
        readers = graph.readers[pictures.last]
        if len(readers) != 1 or graph.nodes[readers[0]].kind in CONVOLUTIONS:
            break
        node = graph.nodes[readers[0]]
        try:
            if node.kind in RANDOM:
                pictures.notes.append(
                    f"its {node} ({node.kind}) changes pictures in training alone: left away"
                )
            elif node.kind == "Resizing":
                _resize(node.config, pictures)
            elif (step := _affine(node, tensors)) is not None:
                _scale(step, pictures)
                scaled.append(f"{node.name} ({node.kind})")
            else:
                break
        except ValueError as error:
            raise ValueError(f"cannot be taken over: its {node} {error}") from None
        pictures.last = readers[0]
        pictures.used.add(readers[0])
    if scaled:
        named = ", ".join(shown(name).strip("'\"") for name in scaled[:4])
        pictures.notes.append(f"the scaling by its layers {named} became the preprocessing")
    return pictures


def preprocessing_of(
    pictures: Pictures, default: Preprocessing, in_channels: int, minimum_size: int
) -> tuple[Preprocessing, list[str]]:
    """The preprocessing, and one sentence for each thing that was chosen.

    default: of the network; its size is taken where the file leaves the size open
    Raises ValueError when the file asks for something that cannot be.
    """
    choices: list[str] = []
    size = pictures.size
    if size is None:
        size = default.size
        choices.append(f"the file takes pictures of any size: {size[0]}x{size[1]}")
    height, width = size
    if height > MAX_SIDE or width > MAX_SIDE or min(size) < minimum_size:
        raise ValueError(
            f"cannot be taken over: it takes pictures of {height}x{width}; the network here takes "
            f"{minimum_size} to {MAX_SIDE} pixels a side"
        )
    if pictures.resize is None:
        choices.append(
            f"{PICTURES_UNSAID} brought to {height}x{width}: squashed, by bilinear interpolation"
        )
    values: dict[str, Any] = {
        "size": size,
        "resize": pictures.resize or "squash",
        "interpolation": pictures.interpolation,
        "channels": 1 if in_channels == 1 else 3,
    }
    if in_channels not in (1, 3):
        choices.append(f"its pictures have {in_channels} channels: preprocessing is that of RGB")
    channels = values["channels"]
    scale, offset = pictures.scale, pictures.offset
    if scale is None or offset is None:
        choices.append(UNSAID_SCALE)
        scale, offset = (Fraction(2, 255),), (Fraction(-1),)
    elif len(scale) not in (1, channels):
        raise ValueError(
            f"cannot be taken over: its pictures have {in_channels} channels, its layers scale "
            f"{len(scale)}"
        )
    std = [1 / (255 * s) for s in scale]
    mean = [-o * d for o, d in zip(offset, std)]
    try:
        for name, numbers in (("mean", mean), ("std", std)):
            values[name] = tuple(float(n) for n in (numbers * channels)[:channels])
        return Preprocessing(**values), choices
    except (OverflowError, ValueError):
        raise ValueError(
            "cannot be taken over: its layers scale pictures by numbers that are too large or small"
        ) from None


def _resize(config: Mapping[str, Any], pictures: Pictures) -> None:
    if pictures.resize is not None:
        raise ValueError("resizes pictures a second time")
    height, width = config.get("height"), config.get("width")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise ValueError(f"has no usable size ({shown(height)} x {shown(width)})")
    interpolation = config.get("interpolation", "bilinear")
    if not isinstance(interpolation, str) or interpolation.lower() not in _INTERPOLATIONS:
        raise ValueError(f"resizes by {shown(interpolation)}, which is not known here")
    pictures.interpolation = _INTERPOLATIONS[interpolation.lower()]
    pictures.size = (height, width)
    pictures.resize = "squash"
    if config.get("crop_to_aspect_ratio"):
        pictures.resize = "crop"
    elif config.get("pad_to_aspect_ratio"):
        pictures.resize = "pad"
    pictures.notes.append(
        f"its Resizing layer became the preprocessing ({height}x{width}, {pictures.resize}, "
        f"{pictures.interpolation}); pictures that shrink are smoothed here, by Keras not"
    )


def _scale(step: tuple[_Numbers, _Numbers], pictures: Pictures) -> None:
    """x -> scale * x + offset after what the layers before did."""
    scale, offset = step
    before, shift = pictures.scale or (Fraction(1),), pictures.offset or (Fraction(0),)
    count = max(len(scale), len(offset), len(before))
    if any(len(n) not in (1, count) for n in (scale, offset, before, shift)):
        raise ValueError("scales another number of channels than the layer before")
    scale, offset, before, shift = ((n * count)[:count] for n in (scale, offset, before, shift))
    pictures.scale = tuple(s * b for s, b in zip(scale, before))
    pictures.offset = tuple(s * o + add for s, o, add in zip(scale, shift, offset))
    if any(s <= 0 for s in pictures.scale):
        raise ValueError("turns pictures into negatives or into nothing")


def _affine(node: Node, tensors: Mapping[str, Tensor]) -> tuple[_Numbers, _Numbers] | None:
    """scale and offset of a layer that computes scale * x + offset; None for other layers."""
    config = node.config
    if node.kind == "Rescaling":
        return _numbers(config.get("scale")), _numbers(config.get("offset", 0.0))
    if node.kind == "Normalization":
        return _normalization(node, tensors)
    if node.kind == "TFOpLambda":
        function = config.get("function")
        if function == "cast":
            return (Fraction(1),), (Fraction(0),)
        if not isinstance(function, str) or function not in _FUNCTIONS:
            raise ValueError(f"is an operation of TensorFlow ({shown(function)}) not known here")
        return _FUNCTIONS[function](_constant(node, node.options.get("y")))
    if node.kind == "Cast":
        return (Fraction(1),), (Fraction(0),)
    if node.kind in _OPERATIONS and len(node.inputs) == 1:
        operand = node.operands[1] if len(node.operands) == 2 else node.options.get("x2")
        return _OPERATIONS[node.kind](_constant(node, operand))
    return None


def _divided(n: _Numbers) -> tuple[_Numbers, _Numbers]:
    if any(x == 0 for x in n):
        raise ValueError("divides by zero")
    return tuple(1 / x for x in n), (Fraction(0),)


def _less(n: _Numbers) -> tuple[_Numbers, _Numbers]:
    return (Fraction(1),), tuple(-x for x in n)


def _times(n: _Numbers) -> tuple[_Numbers, _Numbers]:
    return n, (Fraction(0),)


def _plus(n: _Numbers) -> tuple[_Numbers, _Numbers]:
    return (Fraction(1),), n


_OPERATIONS: dict[str, Callable[[_Numbers], tuple[_Numbers, _Numbers]]] = {
    "TrueDivide": _divided, "Divide": _divided, "Subtract": _less, "Multiply": _times,
    "Add": _plus,
}  # fmt: skip
_FUNCTIONS = {
    "math.truediv": _divided, "math.divide": _divided, "math.subtract": _less,
    "math.multiply": _times, "math.add": _plus, "__operators__.add": _plus,
}  # fmt: skip


def _constant(node: Node, value: Any) -> _Numbers:
    if node.operands[0] is not TENSOR or value is TENSOR or value is None:
        raise ValueError("computes with pictures in a way that preprocessing cannot")
    return _numbers(value)


def _normalization(node: Node, tensors: Mapping[str, Tensor]) -> tuple[_Numbers, _Numbers]:
    axis = node.config.get("axis", -1)
    if axis not in (-1, 3, [-1], [3], None, []):
        raise ValueError(f"normalizes along axis {shown(axis)}, not by channel")
    if node.config.get("mean") is not None:
        mean, variance = (_numbers(node.config.get(name)) for name in ("mean", "variance"))
    elif len(node.tensors) >= 2:
        mean, variance = (_statistics(tensors[name]) for name in node.tensors[:2])
    else:
        raise ValueError("has no mean and variance in the file")
    deviation = tuple(Fraction(max(_root(v), _LEAST_DEVIATION)) for v in variance)
    if node.config.get("invert"):
        return deviation, mean
    if len(mean) != len(deviation):
        raise ValueError(f"has {len(mean)} means and {len(deviation)} variances")
    return tuple(1 / d for d in deviation), tuple(-m / d for m, d in zip(mean, deviation))


def _root(value: Fraction) -> float:
    if not 0 <= value < 10**300:
        raise ValueError("has a variance below zero or too large")
    return float(value) ** 0.5


def _statistics(tensor: Tensor) -> _Numbers:
    if not tensor.is_floating_point() or not 0 < tensor.numel() <= _MAX_CHANNELS:
        raise ValueError("has a mean or variance that is not one number a channel")
    return _numbers(tensor.flatten().to(torch.float64).tolist())


def _numbers(value: Any) -> _Numbers:
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    while len(values) == 1 and isinstance(values[0], list):  # Keras keeps the axes of an array
        values = values[0]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not 0 < len(values) <= _MAX_CHANNELS or not is_number:
        raise ValueError(f"has numbers that cannot be understood ({shown(value)})")
    try:
        return tuple(Fraction(v) for v in values)
    except (ValueError, OverflowError):
        raise ValueError(f"has numbers that are not finite ({shown(value)})") from None
