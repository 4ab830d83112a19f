"""What the swapped modules do instead of their own forward, and when they go back to it.

Each class stands before the module's own one in the order of resolution: `super().forward` is what
the module was before. A convolution returns an ordinary tensor, with the statistics it has taken
as an attribute; normalizations and activations return a `Deferred` where all readers know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from xception.fusion.alone import depthwise_alone
from xception.fusion.deferred import Deferred, Work, computed, defer, work_of
from xception.fusion.legality import (
    activation_of,
    folded_activation,
    four_sides_of,
    is_depthwise,
    why_not_normalization,
)
from xception.fusion.pending import Affine, Filtered
from xception.nn import is_untouched, normalized
from xception.ops import can_use_kernels, separable_unit

_STATISTICS = "_xception_statistics"


@dataclass(frozen=True, slots=True)
class Role:
    """What a module knows of its neighbours.

    takes_statistics: for a convolution, that a normalization reads its output; for a
        normalization, that nobody before it takes them
    defers: all readers of the output know a `Deferred`
    is_alone: for a depthwise convolution, that nothing around it can be folded in
    """

    takes_statistics: bool = False
    defers: bool = False
    is_alone: bool = False


class Fused(nn.Module):
    """Base of all swapped modules; `role` is a plain attribute, in no state dict."""

    role: Role | None

    def _role_for(self, x: Any) -> Role | None:
        """None: `x` is for the module's own forward (other devices, dtypes, graphs, compilers)."""
        is_served = (
            isinstance(x, Tensor)
            and x.dim() == 4
            and x.numel() > 0
            and not torch.compiler.is_compiling()
            and can_use_kernels(x)
        )
        return self.role if is_served else None

    def _handed_on(self, work: Affine | Filtered, role: Role) -> Tensor:
        """Deferred where nobody but its readers sees it."""
        return defer(work) if role.defers and is_untouched(self) else work.compute()


class FusedConvolution(Fused):
    """Depthwise or pointwise: loads through the normalization and activation before it."""

    def forward(self, x: Tensor) -> Tensor:
        conv = cast(nn.Conv2d, self)
        role = self._role_for(x)
        if role is None or not can_use_kernels(conv.weight):
            return super().forward(computed(x))
        if role.is_alone:
            x = computed(x)
            if torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad):
                return depthwise_alone(conv, x)
            return super().forward(x)
        stride = cast("tuple[int, int]", conv.stride)
        padding = four_sides_of(conv)
        work = work_of(x)
        statistics = role.takes_statistics and conv.training
        if is_depthwise(conv):
            source = work if isinstance(work, Affine) else Affine(computed(x))
            dilation = cast("tuple[int, int]", conv.dilation)
            filtered = Filtered(source, conv.weight, stride, padding, dilation)
            if role.defers:
                return self._handed_on(filtered, role)
            y, mean, var = filtered.convolved(None, statistics)
        elif isinstance(work, Filtered):
            y, mean, var = work.convolved(conv.weight, statistics)
        else:
            y, mean, var = separable_unit(
                work.raw, work.scale, work.shift, None, conv.weight,
                activation=work.activation, stride=stride, padding=padding, statistics=statistics,
            )  # fmt: skip
        if statistics:
            setattr(y, _STATISTICS, (mean, var))
        return y


class FusedNormalization(Fused):
    """Works out scale and shift; whoever reads applies them."""

    def forward(self, x: Tensor) -> Tensor:
        norm = cast(nn.BatchNorm2d, self)
        activation = folded_activation(norm)
        role = self._role_for(x)
        if role is None or activation is None or why_not_normalization(norm):
            return super().forward(computed(x))
        raw = computed(x)
        mean = var = raw.new_empty(0)
        if norm.training:
            found = _statistics_of(raw)
            if found is None:
                if not role.takes_statistics:
                    return super().forward(raw)
                raw, mean, var = separable_unit(raw, None, None, None, None)
            else:
                mean, var = found
        y = normalized(norm, raw, mean, var)
        return self._handed_on(Affine(raw, y.scale, y.shift, activation), role)


class FusedActivation(Fused):
    """Only notes itself."""

    def forward(self, x: Tensor) -> Tensor:
        role, name = self._role_for(x), activation_of(self)
        work = work_of(x)
        if role is None or name is None or not self._can_note(x, work, role):
            return super().forward(computed(x))
        assert isinstance(work, Affine)
        y = self._handed_on(Affine(work.raw, work.scale, work.shift, name), role)
        if type(x) is Deferred and getattr(self, "inplace", False):
            x.becomes(y)
        return y

    def _can_note(self, x: Tensor, work: Work, role: Role) -> bool:
        if not isinstance(work, Affine) or work.activation != "none":
            return False
        if work.scale is not None:
            return True
        # A tensor that is there: in place, all who hold it are to see the change.
        return role.defers and not getattr(self, "inplace", False)


def _statistics_of(y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and variance, if `y` is as the convolution made it."""
    if y._version > 0:
        return None
    return getattr(y, _STATISTICS, None)
