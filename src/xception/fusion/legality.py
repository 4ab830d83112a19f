"""Which modules can be swapped at all, and the reason where one cannot."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from xception.nn import SyncBatchNorm2d, is_untouched

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.SiLU: "silu",
}

_FORWARDS = ("forward", "_conv_forward")


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that the user built: behind a swapped one, that before it."""
    return getattr(type(module), "original", type(module))


def activation_of(module: nn.Module) -> str | None:
    """Its name for the kernels; None for any other module."""
    return _ACTIVATIONS.get(original_class(module))


def is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def has_depthwise_form(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1


def has_pointwise_form(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.kernel_size == (1, 1)


def is_normalization(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


def has_activation_inside(norm: nn.Module) -> bool:
    """timm's `BatchNormAct2d`, told by name so that timm need not be imported."""
    kind = original_class(norm)
    return kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.")


def folded_activation(norm: nn.Module) -> str | None:
    """The activation that a normalization applies itself, "none" in most; None: not a known one."""
    if not has_activation_inside(norm):
        return "none"
    drop, act = cast(nn.Module, norm.drop), cast(nn.Module, norm.act)
    if not is_untouched(drop, nn.Identity) or not is_untouched(act):
        return None
    return "none" if type(act) is nn.Identity else _ACTIVATIONS.get(type(act))


def four_sides_of(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """The zeros that `conv` puts around its input: top, bottom, left, right."""
    if isinstance(conv.padding, str):
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        return top, bottom, left, right
    height, width = cast("tuple[int, int]", conv.padding)
    return height, height, width, width


def form_of(conv: nn.Conv2d) -> tuple[Hashable, ...]:
    """All that the plan for a convolution rests on, and that may be given to it later."""
    return (
        conv.in_channels, conv.out_channels, conv.groups, conv.weight.shape, conv.bias is None,
        conv.stride, conv.padding, conv.dilation, conv.padding_mode, _is_patched(conv),
    )  # fmt: skip


def why_not_convolution(conv: nn.Conv2d) -> str | None:
    """The reason why the kernels cannot compute it; a bias is left to others."""
    kind = original_class(conv)
    own = [getattr(kind, name) is not getattr(nn.Conv2d, name) for name in _FORWARDS]
    if parametrize.is_parametrized(conv):
        return "is parametrized"
    if any(own) or _is_patched(conv):
        return f"{kind.__name__} has a forward of its own"
    if not has_depthwise_form(conv) and not has_pointwise_form(conv):
        if conv.groups == 1:
            return f"a regular {conv.kernel_size[0]}x{conv.kernel_size[1]} convolution"
        if conv.groups == conv.in_channels:
            return "more than one filter a channel"
        return f"{conv.groups} groups of channels: neither depthwise nor pointwise"
    if conv.weight.shape[2:] != conv.kernel_size:
        return "its weight is of another size than its kernel_size"
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r}"
    if conv.weight.dtype != torch.float32:
        return f"{conv.weight.dtype} weights; the kernels compute float32"
    return None


def why_not_normalization(norm: nn.BatchNorm2d) -> str | None:
    """The reason to leave it as it is, which may also come up after it was swapped."""
    if parametrize.is_parametrized(norm):
        return "is parametrized"
    kind = original_class(norm)
    known = kind in (nn.BatchNorm2d, SyncBatchNorm2d) or has_activation_inside(norm)
    if not known:
        return f"{kind.__name__} has a forward of its own"
    if norm.weight is None or norm.bias is None:
        return "has no weight and bias (affine=False)"
    if norm.running_mean is None or norm.running_var is None or not norm.track_running_stats:
        return "keeps no running statistics"
    if norm.num_batches_tracked is None:
        return "counts no batches"
    if norm.weight.dtype != torch.float32:
        return f"{norm.weight.dtype} weights; the kernels compute float32"
    return None


def _is_patched(module: nn.Module) -> bool:
    return any(name in module.__dict__ for name in _FORWARDS)
