"""What names and shapes of a state dict tell of its network, before it is known to be whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from xception.weights.wording import listed


def prefix_of(names: Iterable[str], mark: re.Pattern[str], library: str) -> str | None:
    """What stands before `mark` in `names` ("" or ends in a dot); None when no name has the mark.

    mark: matches the rest of some names, from the outermost module of the network on
    library: how the message calls the network

    Raises ValueError when such networks stand under several prefixes.
    """
    found: dict[str, None] = {}
    for name in names:
        match = mark.search(name)
        if match and (match.start() == 0 or name[match.start() - 1] == "."):
            found.setdefault(name[: match.start()])
    if len(found) > 1:
        raise ValueError(
            f"holds {len(found)} networks like {library}, under {listed(map(repr, found))}; "
            "save one of them alone"
        )
    return next(iter(found), None)


def num_classes_of(tensors: Mapping[str, Tensor], last_layer: str) -> int:
    """Outputs of the linear layer that is called `last_layer`: 0 without one, else at least 1.

    By its bias, which cannot lie transposed.
    """
    weight, bias = (tensors.get(f"{last_layer}.{leaf}") for leaf in ("weight", "bias"))
    for tensor in (bias, weight):
        if tensor is not None and tensor.dim() > 0:
            return max(1, tensor.shape[0])
    return 0 if weight is None and bias is None else 1


def in_channels_of(weight: Tensor | None, out_channels: int) -> int:
    """Input channels of the first convolution; 3 when `weight` is not one of `out_channels`."""
    if weight is None or weight.dim() != 4 or weight.shape[0] != out_channels:
        return 3
    return max(1, weight.shape[1])
