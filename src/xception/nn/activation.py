"""The activations that stand between the two halves of a separable convolution, by name."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

IntermediateActivation = Literal["none", "relu", "elu"]


def intermediate_activation_layer(name: IntermediateActivation) -> nn.Module:
    """Paper section 4.7: none (best), ReLU or ELU, in place; raises ValueError for other names.

    In place is safe here: the convolution before it does not need its own output for backward.
    """
    if name not in get_args(IntermediateActivation):
        raise ValueError(
            f"intermediate_activation must be one of {get_args(IntermediateActivation)}, "
            f"got {name!r}"
        )
    if name == "relu":
        return nn.ReLU(inplace=True)
    return nn.ELU(inplace=True) if name == "elu" else nn.Identity()
