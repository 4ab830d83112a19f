"""A network without numbers: what shapes it makes can be asked without memory or time."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def meta_twin(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose tensors hold no data, and without the hooks of the original.

    The original is left as it is, and its weights are not copied on the way.
    """
    stand_ins: dict[int, Any] = {}  # copy.deepcopy takes these where it meets the originals
    for parameter in model.parameters():
        data = torch.empty_like(parameter, device="meta")
        stand_ins[id(parameter)] = nn.Parameter(data, requires_grad=False)
    for buffer in model.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    twin = copy.deepcopy(model, stand_ins)
    for module in twin.modules():
        for hooks in (
            module._forward_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
            module._forward_pre_hooks,
            module._forward_pre_hooks_with_kwargs,
        ):
            hooks.clear()
    return twin.eval()


def meta_picture(
    model: nn.Module, size: int | tuple[int, int] | None = None, in_channels: int | None = None
) -> Tensor:
    """One picture without numbers, (1, in_channels, height, width), for `meta_twin(model)`.

    size: side or (height, width) in pixels; by default `model.preprocessing.size`
    in_channels: by default `model.in_channels`, or those of the first convolution

    Raises ValueError when the model does not state what was not given.
    """
    height, width = _size(model, size)
    channels = in_channels or _input_channels(model)
    return torch.empty(1, channels, height, width, dtype=_dtype(model), device="meta")


def _size(model: nn.Module, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if size is not None:
        return size
    preprocessing = getattr(model, "preprocessing", None)
    if preprocessing is None:
        raise ValueError(f"give a size: {type(model).__name__} does not state its picture size")
    height, width = preprocessing.size
    return height, width


def _input_channels(model: nn.Module) -> int:
    stated = getattr(model, "in_channels", None)
    if isinstance(stated, int):
        return stated
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError(f"give in_channels: {type(model).__name__} has no convolution")


def _dtype(model: nn.Module) -> torch.dtype:
    parameter = next(model.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype
