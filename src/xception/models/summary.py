"""What a network is made of: one row a layer, with its output shape, parameters and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xception.models.meta_twin import meta_picture, meta_twin


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One call of one layer, for a single picture."""

    name: str  # in the state dict
    type: str  # class name
    output_shape: tuple[int, ...]  # without the batch
    parameters: int  # the layer's own; 0 where they were counted at an earlier call
    macs: int  # multiply-accumulates of convolutions and linear layers, biases not counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums over the rows of a network."""

    parameters: int
    macs: int


def summarize(
    model: nn.Module, size: int | tuple[int, int] | None = None, *, in_channels: int | None = None
) -> list[LayerRow]:
    """The layers of `model` in the order in which a picture meets them.

    size: side or (height, width) of the picture in pixels; by default `model.preprocessing.size`
    in_channels: by default `model.in_channels`, or those of the first convolution

    Only shapes are computed (one forward of a copy on the meta device, in eval mode): it costs no
    memory for weights or activations, and the model is left as it is. Layers that do nothing
    (`torch.nn.Identity`, empty containers) have no row.
    Raises ValueError when no size is known, and what the model raises for a size it refuses.
    """
    twin = meta_twin(model)
    names = {module: name for name, module in twin.named_modules()}
    rows: list[LayerRow] = []
    counted: set[int] = set()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        rows.append(
            LayerRow(
                name=names[module],
                type=type(module).__name__,
                output_shape=tuple(output.shape[1:]),
                parameters=sum(p.numel() for p in own),
                macs=layer_macs(module, output),
            )
        )

    for module in names:
        is_leaf = next(module.children(), None) is None
        owns = next(module.parameters(recurse=False), None) is not None
        if (is_leaf or owns) and not isinstance(module, nn.Identity | nn.Sequential):
            module.register_forward_hook(note)
    with torch.no_grad():
        twin(meta_picture(model, size, in_channels))
    return rows


def totals(rows: Sequence[LayerRow]) -> Totals:
    """Parameters and multiply-accumulates of all rows together, for a single picture."""
    return Totals(parameters=sum(r.parameters for r in rows), macs=sum(r.macs for r in rows))


def layer_macs(module: nn.Module, output: Tensor) -> int:
    """Multiply-accumulates of one call of a layer for one picture; 0 of what is neither kind."""
    outputs = output[0].numel()
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        return outputs * height * width * module.in_channels // module.groups
    return outputs * module.in_features if isinstance(module, nn.Linear) else 0
