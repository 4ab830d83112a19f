"""Keras's weights into a network of ours: only axes change places, no number does.

Legend of kernels: h, w height and width; c, o channels in and out; m filters a channel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xception.models import Classifier, resolved_arguments
from xception.weights.dialects.keras_plan import ROLES
from xception.weights.skeleton import build_skeleton
from xception.weights.wording import quoted, sizes

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_STATE = re.compile(
    r"_?(optimizer|seed_generator|metrics|compile_metrics|loss_tracker|top_level_model_weights)"
    r"(_[0-9]+)?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One layer's.

    layer: how messages call it; kind: Keras's class
    there: names in the file, in Keras's order; here: our names, in the same order
    """

    layer: str
    kind: str
    there: Sequence[str]
    here: Sequence[str]


def fill(
    model: Classifier,
    layers: Iterable[LayerWeights],
    tensors: Mapping[str, Tensor],
    *,
    binary: bool = False,
    without_bias: Sequence[str] = (),
) -> tuple[tuple[str, str], ...]:
    """Put the file's `tensors` into `model`, a skeleton; the pairs (name there, name here).

    binary: put a row of zeros before the one of the last layer
    without_bias: our names that get zeros

    Raises ValueError naming the layer whose weights are missing, of another shape or dtype, or not
    finite.
    """
    wanted = model.state_dict()
    taken: dict[str, Tensor] = {}
    mapped: list[tuple[str, str]] = []
    first: tuple[str, torch.dtype] | None = None
    for layer in layers:
        for role, there, here in _pairs(layer):
            tensor = tensors[there]
            rows = 1 if binary and here.startswith("head.fc.") else 0
            shape = list(wanted[here].shape)
            shape[0] -= rows
            taken[here] = _turned(tensor, role, shape, layer)
            if rows:
                taken[here] = torch.cat([torch.zeros_like(taken[here]), taken[here]])
            mapped.append((there, here))
            first = first or (layer.layer, tensor.dtype)
            if tensor.dtype != first[1]:
                raise ValueError(
                    f"mixes precisions: its {layer.layer} has {_dtype(tensor.dtype)}, its "
                    f"{first[0]} {_dtype(first[1])}; convert all weights to one"
                )
    for name, expected in wanted.items():
        if name.endswith("num_batches_tracked"):  # Keras does not count, and nothing needs it
            taken[name] = torch.zeros((), dtype=torch.int64)
        elif name in without_bias and first is not None:
            taken[name] = torch.zeros(expected.shape, dtype=first[1])
    model.load_state_dict(taken, assign=True)
    return tuple(mapped)


def build(name: str, arguments: Mapping[str, Any]) -> Classifier:
    """The skeleton of a network; raises ValueError when it cannot be built."""
    try:
        return build_skeleton({"name": name, "args": resolved_arguments(name, **arguments)})
    except ValueError as error:
        raise ValueError(f"cannot be taken over as {name}: {error}") from None


def in_channels_of(first: LayerWeights, tensors: Mapping[str, Tensor]) -> int:
    """Channels that the first convolution reads."""
    shape = tensors[first.there[0]].shape if first.there else ()
    if len(shape) != 4 or shape[2] < 1:
        raise ValueError(
            f"does not fit its network: its {first.layer} has no kernel of a convolution"
        )
    return int(shape[2])


def left_over(
    names: Iterable[str], mapped: Iterable[str], known: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """What of the file was not taken, each with the reason.

    known: reasons by name, for what was used elsewhere
    Raises ValueError naming tensors that belong to no layer.
    """
    used = set(mapped)
    found: list[tuple[str, str]] = []
    strange: list[str] = []
    for name in names:
        if name in used:
            continue
        reason = known.get(name)
        if reason is None and is_state(name):
            reason = "state of the training, of no layer"
        if reason is None:
            strange.append(name)
        else:
            found.append((name, reason))
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise ValueError(
            f"holds weights that belong to no layer of its network: {quoted(strange[0])}{more}; "
            "save the model again by Keras"
        )
    return tuple(found)


def is_state(name: str) -> bool:
    """Whether a tensor belongs to training (optimizer, measures, random numbers), not a layer."""
    return any(_STATE.fullmatch(part) for part in name.split("/"))


def _pairs(layer: LayerWeights) -> list[tuple[str, str, str]]:
    """(role, name there, name here) of each weight."""
    roles = ROLES[layer.kind]
    if len(layer.here) > len(roles):
        roles = (*roles, "bias")
    if len(layer.there) != len(roles):
        raise ValueError(
            f"does not fit its network: its {layer.layer} has {len(layer.there)} weights, "
            f"{len(roles)} are needed ({', '.join(roles)}); save the model again by Keras"
        )
    by_role = {name.rpartition("/")[2].removesuffix(":0"): name for name in layer.there}
    # Keras goes by the order; names tell more, where they are there.
    there = [by_role[role] for role in roles] if set(by_role) == set(roles) else layer.there
    return list(zip(roles, there, layer.here))


def _turned(tensor: Tensor, role: str, shape: list[int], layer: LayerWeights) -> Tensor:
    """`tensor` with its axes in our order, as a copy of its own where they move."""
    if tensor.dtype not in _FLOATS:
        raise ValueError(
            f"holds the {role} of its {layer.layer} as {_dtype(tensor.dtype)}; save the weights as "
            "16, 32 or 64-bit floating point"
        )
    expected = _keras_shape(role, shape)
    if list(tensor.shape) != expected:
        raise ValueError(
            f"does not fit its network: the {role} of its {layer.layer} is {sizes(tensor.shape)}, "
            f"{sizes(expected)} is needed"
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"holds NaN or infinite weights in the {role} of its {layer.layer}; take an earlier "
            "state of training"
        )
    if role == "moving_variance" and (tensor < 0).any():
        raise ValueError(
            f"holds variances below zero in its {layer.layer}; copy or download it again"
        )
    if role == "depthwise_kernel":  # hwcm -> (c m)1hw
        return tensor.permute(2, 3, 0, 1).reshape(shape).contiguous()
    if tensor.dim() == 4:  # hwco -> ochw
        return tensor.permute(3, 2, 0, 1).contiguous()
    return tensor.t().contiguous() if tensor.dim() == 2 else tensor


def _keras_shape(role: str, shape: list[int]) -> list[int]:
    """Of a weight whose shape here is `shape`; the multiplier of a separable layer here is 1."""
    if role == "depthwise_kernel":
        return [*shape[2:], shape[0], 1]
    if len(shape) == 4:
        return [*shape[2:], shape[1], shape[0]]
    return shape[::-1]


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
