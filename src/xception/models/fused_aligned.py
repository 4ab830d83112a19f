"""The fused way through a block of the aligned networks: the same modules, other calls.

Where normalization stands between depthwise and pointwise, each of the two is an operator of its
own, which takes the statistics of what it makes and applies the normalization before it; where
nothing stands between, both are one. See fused_block.py for when this steps aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from xception.models.aligned_units import NormalizedSeparableConv2d, PreActivatedSeparableConv2d
from xception.models.fused_block import (
    is_served_separable,
    is_served_skip,
    is_strided_pointwise,
    through_separable,
    through_skip,
)
from xception.nn import (
    Normalized,
    SeparableConv2d,
    can_normalize,
    depthwise_padding,
    is_depthwise,
    is_pointwise,
    is_untouched,
    normalized,
)
from xception.ops import activated, can_use_kernels, merge, separable_unit


def can_fuse_units(units: Sequence[nn.Module], skip: nn.Module | None, x: Tensor) -> bool:
    """Whether `fused_units` computes what these modules of an `AlignedBlock` would."""
    if not can_use_kernels(x) or x.numel() == 0:
        return False
    if not all(_is_unit(unit) for unit in units):
        return False
    layers = _layers(units)
    return (
        any(_is_convolution(layer) for layer in layers)
        and not _writes_into_its_input(layers[0])
        and all(_is_served(*pair) for pair in zip([None, *layers], layers))
        and (is_served_skip(skip) or is_strided_pointwise(cast(nn.Module, skip)))
        and (skip is None or not isinstance(layers[-1], nn.ReLU))
    )


def fused_units(
    units: Sequence[nn.Module], x: Tensor, skip: nn.Module | None, around: Tensor
) -> Tensor:
    """What `units` make of x, plus `skip` of `around`; only where `can_fuse_units` says so."""
    layers = _layers(units)
    y = Normalized(x, None, None)
    mean = var = x
    activation = "none"
    for layer, following in zip(layers, [*layers[1:], None]):
        if isinstance(layer, nn.ReLU):
            activation = "relu"
        elif isinstance(layer, nn.BatchNorm2d):
            y = normalized(layer, y.raw, mean, var)
        else:
            statistics = isinstance(following, nn.BatchNorm2d) and following.training
            raw, mean, var = _convolved(layer, y, activation, statistics=statistics)
            y, activation = Normalized(raw, None, None), "none"
    return _end(y, activation, skip, around)


def _end(y: Normalized, activation: str, skip: nn.Module | None, around: Tensor) -> Tensor:
    if isinstance(skip, nn.Conv2d):
        raw, _, _ = separable_unit(
            around, None, None, None, skip.weight, stride=skip.stride, statistics=False
        )
        added = Normalized(raw, None, None)
    else:
        added = through_skip(skip, Normalized(around, None, None))
    if y.scale is None or y.shift is None:
        out = activated(y.raw, activation)
        if skip is None:
            return out
        if added.scale is None or added.shift is None:
            return out + added.raw
        return merge(added.raw, added.scale, added.shift, out)
    return merge(
        y.raw,
        y.scale,
        y.shift,
        None if skip is None else added.raw,
        added.scale,
        added.shift,
        activation=activation,
    )


def _convolved(
    conv: nn.Module, x: Normalized, activation: str, *, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if isinstance(conv, SeparableConv2d):
        return through_separable(conv, x, activation, statistics=statistics)
    assert isinstance(conv, nn.Conv2d)
    if not is_depthwise(conv):
        return separable_unit(
            x.raw, x.scale, x.shift, None, conv.weight, activation=activation, statistics=statistics
        )
    return separable_unit(
        x.raw,
        x.scale,
        x.shift,
        conv.weight,
        None,
        activation=activation,
        stride=conv.stride,
        padding=depthwise_padding(conv, x.raw),
        dilation=conv.dilation,
        statistics=statistics,
    )


def _layers(units: Sequence[nn.Module]) -> list[nn.Module]:
    """Convolutions, normalizations and ReLUs in the order in which they are computed."""
    layers: list[nn.Module] = []
    for unit in units:
        if isinstance(unit, NormalizedSeparableConv2d):
            layers += [unit.depthwise, unit.depthwise_norm, unit.depthwise_act]
            layers += [unit.pointwise, unit.pointwise_norm, unit.pointwise_act]
        elif isinstance(unit, PreActivatedSeparableConv2d):
            layers += [unit.norm, unit.act, unit.conv]
        else:
            layers.append(unit)
    return [layer for layer in layers if not is_untouched(layer, nn.Identity)]


def _is_unit(unit: nn.Module) -> bool:
    return is_untouched(
        unit, NormalizedSeparableConv2d, PreActivatedSeparableConv2d, nn.ReLU, nn.Identity
    )


def _is_served(before: nn.Module | None, layer: nn.Module) -> bool:
    """Whether `fused_units` knows this layer, behind the one before it."""
    if is_untouched(layer, nn.ReLU):
        return True
    if isinstance(layer, nn.BatchNorm2d):
        return before is not None and _is_convolution(before) and can_normalize(layer)
    return _is_convolution(layer)


def _is_convolution(layer: nn.Module) -> bool:
    if isinstance(layer, SeparableConv2d):
        return is_served_separable(layer)
    if not isinstance(layer, nn.Conv2d) or layer.bias is not None:
        return False
    if is_depthwise(layer):
        return layer.out_channels == layer.in_channels
    return is_pointwise(layer)


def _writes_into_its_input(layer: nn.Module) -> bool:
    """An activation in place: the skip connection would then read what it left."""
    return isinstance(layer, nn.ReLU) and layer.inplace
