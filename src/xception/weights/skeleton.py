"""A network without numbers, built from a description, to compare a file's tensors with.

It stands on torch's meta device, so even absurd arguments take no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from xception.models import Classifier, create_model, list_models, resolved_arguments
from xception.weights.header import TensorEntry
from xception.weights.wording import listed, quoted, sizes

MAX_LIST = 32  # entries of an argument that is a list (fc_units, head_layers)
FLOATS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_DTYPE_NAMES = {**FLOATS, torch.int64: "I64"}


def build_skeleton(architecture: dict[str, Any]) -> Classifier:
    """The network of a description on the meta device.

    Raises ValueError when this version has no such network or its arguments are not allowed.
    """
    name, arguments = architecture["name"], architecture["args"]
    if name not in list_models():
        raise ValueError(
            f"is of a network {quoted(name)!r} that this version of xception does not know; "
            "upgrade xception"
        )
    defaults = resolved_arguments(name)
    for argument, value in arguments.items():
        if argument not in defaults:
            raise ValueError(
                f"sets {quoted(argument)!r}, which this version's {name} does not take; "
                "upgrade xception"
            )
        if not _is_of_kind(value, defaults[argument]):
            raise ValueError(f"has a bad description: {argument} cannot be {quoted(repr(value))}")
    try:
        with torch.device("meta"):
            model = create_model(name, **arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = quoted(str(error).partition("\n")[0], 200)
        raise ValueError(f"describes a network that cannot be built: {reason}") from None
    assert isinstance(model, Classifier)
    return model


def check_tensors(model: Classifier, tensors: Mapping[str, TensorEntry]) -> None:
    """Raise ValueError naming the tensors that `model` needs and that are not there, or differ.

    Floating tensors may be of another precision than `model`'s, but all of the same.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ValueError(f"lacks tensors that its network needs: {listed(missing)}")
    extra = [name for name in tensors if name not in wanted]
    if extra:
        raise ValueError(f"holds tensors that its network does not have: {listed(extra)}")
    precisions: dict[str, str] = {}  # dtype of floating tensors -> the first that has it
    for name, tensor in wanted.items():
        entry = tensors[name]
        if entry.shape != tuple(tensor.shape):
            raise ValueError(
                f"does not fit its description: {name} is {sizes(entry.shape)}, the network "
                f"needs {sizes(tuple(tensor.shape))}"
            )
        allowed = FLOATS.values() if tensor.is_floating_point() else [_DTYPE_NAMES[tensor.dtype]]
        if entry.dtype not in allowed:
            raise ValueError(f"does not fit its description: {name} is of dtype {entry.dtype}")
        if tensor.is_floating_point():
            precisions.setdefault(entry.dtype, name)
    if len(precisions) > 1:
        kinds = " and ".join(f"{dtype} ({name})" for dtype, name in precisions.items())
        raise ValueError(f"mixes precisions: {kinds}; convert all weights to one")


def entry_of(tensor: torch.Tensor) -> TensorEntry:
    """How a safetensors header describes `tensor`."""
    return TensorEntry(_DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def _is_of_kind(value: Any, default: Any) -> bool:
    """Whether `value` is of the kind of an argument whose default is `default`."""
    is_int = type(value) is int
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return is_int
    if isinstance(default, float):
        return is_int or isinstance(value, float)
    if isinstance(default, str):  # segments: a name or a number
        return is_int or isinstance(value, str)
    if isinstance(default, list):
        is_list = isinstance(value, list) and len(value) <= MAX_LIST
        return is_list and all(type(v) in (int, str) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))
