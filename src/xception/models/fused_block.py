"""The fused way through an XceptionBlock: the same modules, other calls.

A block's tensors are kept as its convolutions made them; each normalization is two vectors that the
next reader applies (see `xception.ops.unit`). What this computes is what the modules' own forward
computes, so it steps aside whenever one of them is not what the block was built of: replaced,
hooked, or in a state that is not served here.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from xception.models.separable_unit import SeparableUnit
from xception.nn import (
    MaxPool2d,
    Normalized,
    SeparableConv2d,
    can_normalize,
    four_sided_padding,
    is_untouched,
    normalized,
)
from xception.ops import can_use_kernels, merge, separable_unit

_ACTIVATIONS = {nn.ReLU: "relu", nn.Identity: "none"}


def can_fuse(units: nn.Module, pool: nn.Module | None, skip: nn.Module | None, x: Tensor) -> bool:
    """Whether `fused` computes what the modules of an `XceptionBlock` would."""
    return (
        can_use_kernels(x)
        and x.numel() > 0
        and is_untouched(units, nn.Sequential)
        and len(cast(nn.Sequential, units)) > 0
        and all(_is_unit(unit) for unit in units.children())
        and not _writes_into_its_input(next(units.children()))
        and (pool is None or is_untouched(pool, MaxPool2d))
        and is_served_skip(skip)
    )


def fused(
    units: nn.Module,
    pool: nn.Module | None,
    skip: nn.Module | None,
    x: Tensor | Normalized,
    activation: str = "none",
) -> Tensor:
    """The block's output; only where `can_fuse` says so.

    activation: of what comes in, where that is `Normalized`; then skip is no identity
    """
    start = Normalized(x, None, None) if isinstance(x, Tensor) else x
    y = start
    for index, unit in enumerate(units.children()):
        y = _unit(cast(SeparableUnit, unit), y, activation if index == 0 else "none")
    around = None if skip is None else through_skip(skip, start, activation)
    assert y.scale is not None and y.shift is not None  # a block has at least one unit
    return merge(
        y.raw,
        y.scale,
        y.shift,
        None if around is None else around.raw,
        None if around is None else around.scale,
        None if around is None else around.shift,
        pool=() if pool is None else _pool_window(cast(MaxPool2d, pool), y.raw),
    )


def through_skip(skip: nn.Module | None, x: Normalized, activation: str = "none") -> Normalized:
    """What `is_served_skip` says yes to, of x; x itself where there is nothing in the way."""
    if not isinstance(skip, nn.Sequential):
        return x
    conv, norm = cast("tuple[nn.Conv2d, nn.BatchNorm2d]", tuple(skip.children()))
    raw, mean, var = separable_unit(
        x.raw,
        x.scale,
        x.shift,
        None,
        conv.weight,
        activation=activation,
        stride=conv.stride,
        statistics=norm.training,
    )
    return normalized(norm, raw, mean, var)


def can_fuse_chain(chain: nn.Sequential, x: Tensor) -> bool:
    """Whether `fused_chain` computes what these modules would."""
    parts = list(chain.children())
    return (
        can_use_kernels(x)
        and x.numel() > 0
        and len(parts) > 0
        and _is_unit(parts[0])
        and all(is_untouched(part, nn.ReLU) or _is_unit(part) for part in parts[1:])
    )


def fused_chain(chain: nn.Sequential, x: Tensor) -> Tensor:
    """Units one after the other, the ReLU before each folded into it; then what is left."""
    y = Normalized(x, None, None)
    activation = "none"
    for part in chain.children():
        if isinstance(part, nn.ReLU):
            activation = "relu"
        else:
            y = _unit(cast(SeparableUnit, part), y, activation)
            activation = "none"
    assert y.scale is not None and y.shift is not None  # a chain begins with a unit
    return merge(y.raw, y.scale, y.shift, activation=activation)


def _unit(unit: SeparableUnit, x: Normalized, activation_before: str) -> Normalized:
    """The unit's own activation comes after the one before it; a ReLU of a ReLU is a ReLU."""
    own = _ACTIVATIONS[type(unit.act)]
    norm = cast(nn.BatchNorm2d, unit.norm)
    activation = activation_before if own == "none" else own
    raw, mean, var = through_separable(
        cast(SeparableConv2d, unit.conv), x, activation, statistics=norm.training
    )
    return normalized(norm, raw, mean, var)


def through_separable(
    conv: SeparableConv2d, x: Normalized, activation: str, *, statistics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`separable_unit` with the weights of what `is_served_separable` says yes to."""
    depthwise = conv.depthwise
    return separable_unit(
        x.raw,
        x.scale,
        x.shift,
        depthwise.weight,
        conv.pointwise.weight,
        activation=activation,
        stride=depthwise.stride,
        padding=conv.padding_for(x.raw),
        dilation=depthwise.dilation,
        statistics=statistics,
    )


def _is_unit(unit: nn.Module) -> bool:
    parts = cast(SeparableUnit, unit)
    return (
        is_untouched(unit, SeparableUnit)
        and is_untouched(parts.act, nn.ReLU, nn.Identity)
        and is_served_separable(parts.conv)
        and can_normalize(parts.norm)
    )


def is_served_separable(conv: nn.Module) -> bool:
    """A separable convolution with one filter a channel and no bias, as it was built."""
    return (
        is_untouched(conv, SeparableConv2d)
        and isinstance(conv, SeparableConv2d)
        and conv.is_one_operator()
        and conv.depthwise.out_channels == conv.depthwise.in_channels
        and conv.pointwise.bias is None
    )


def _writes_into_its_input(unit: nn.Module) -> bool:
    """An activation in place: the skip connection would then read what it left."""
    return bool(getattr(cast(SeparableUnit, unit).act, "inplace", False))


def is_served_skip(skip: nn.Module | None) -> bool:
    """None, an identity, or a 1x1 convolution and its normalization."""
    if skip is None or is_untouched(skip, nn.Identity):
        return True
    if not is_untouched(skip, nn.Sequential) or len(cast(nn.Sequential, skip)) != 2:
        return False
    conv, norm = skip.children()
    return is_strided_pointwise(conv) and can_normalize(norm)


def is_strided_pointwise(conv: nn.Module) -> bool:
    """A 1x1 convolution over all channels, of any stride, without bias."""
    return (
        is_untouched(conv, nn.Conv2d)
        and cast(nn.Conv2d, conv).kernel_size == (1, 1)
        and cast(nn.Conv2d, conv).padding == (0, 0)
        and cast(nn.Conv2d, conv).groups == 1
        and cast(nn.Conv2d, conv).bias is None
    )


def _pool_window(pool: MaxPool2d, x: Tensor) -> list[int]:
    """The pool as `merge` takes it."""
    kernel, stride, dilation = (3, 3), (pool.stride,) * 2, (pool.dilation,) * 2
    sides = four_sided_padding(x, kernel, stride, dilation, pool.padding)
    return [*kernel, *stride, *sides, *dilation]
