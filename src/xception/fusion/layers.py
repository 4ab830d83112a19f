"""What the swapped modules do instead of their own forward, and when they go back to it.

Each class stands before the module's own one in the order of resolution: `super().forward` is what
the module was before. A convolution returns an ordinary tensor, with the statistics it has taken
as an attribute; normalizations and activations return a `Deferred` where all readers know it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from xception.fusion.alone import depthwise_alone
from xception.fusion.deferred import Deferred, computed, defer, work_of
from xception.fusion.legality import (
    activation_of,
    folded_activation,
    form_of,
    four_sides_of,
    has_depthwise_form,
    why_not_normalization,
)
from xception.fusion.pending import Affine, Filtered
from xception.fusion.promise import Work, version_of
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
    form: for a convolution, what it was planned as
    hooks: of its readers and of the containers that its output passes; whoever hooks one of them
        is to find the network's own tensor, so as long as one is there nothing is put off. These
        are the modules' own dictionaries, since a copy or a pickle of this module alone takes them
        along at no cost, and one of the whole network keeps who shares which.
    """

    takes_statistics: bool = False
    defers: bool = False
    is_alone: bool = False
    form: tuple[Hashable, ...] = ()
    hooks: tuple[Sized, ...] = ()


class Fused(nn.Module):
    """Base of all swapped modules; `role` is a plain attribute, in no state dict."""

    role: Role | None

    def _role_for(self, x: Any) -> Role | None:
        """None: `x` is for the module's own forward (other devices, dtypes, graphs, compilers)."""
        is_served = (
            not torch.compiler.is_compiling()
            and "original" in type(self).__dict__  # nobody, such as a parametrization, went further
            and isinstance(x, Tensor)
            and x.dim() == 4
            and x.numel() > 0
            and x.is_inference() <= torch.is_inference_mode_enabled()
            and can_use_kernels(x)
        )
        return self.role if is_served else None

    def _is_private(self, role: Role) -> bool:
        """Whether nobody but its readers sees what it returns."""
        return is_untouched(self) and not any(role.hooks)

    def _handed_on(self, work: Affine | Filtered, role: Role) -> Tensor:
        """Deferred where nobody but its readers sees it."""
        return defer(work) if role.defers and self._is_private(role) else work.compute()


class FusedConvolution(Fused):
    """Depthwise or pointwise: loads through the normalization and activation before it."""

    def forward(self, input: Tensor) -> Tensor:  # torch's own name for it
        conv = cast(nn.Conv2d, self)
        role = self._role_for(input)
        if role is None or not self._is_as_planned(conv, role, input):
            return super().forward(computed(input))
        if role.is_alone:
            x = computed(input)
            if torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad):
                return depthwise_alone(conv, x)
            return super().forward(x)
        stride = cast("tuple[int, int]", conv.stride)
        padding = four_sides_of(conv)
        work = work_of(input)
        # Changes of the numbers alone (`y.data`), as hooks may make, leave no trace.
        statistics = role.takes_statistics and conv.training and self._is_private(role)
        if has_depthwise_form(conv):
            source = work if isinstance(work, Affine) else Affine(computed(input))
            dilation = cast("tuple[int, int]", conv.dilation)
            filtered = Filtered(source, conv.weight, stride, padding, dilation)
            if min(filtered.shape[2:]) < 1:  # torch's own message
                return super().forward(computed(input))
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

    def _is_as_planned(self, conv: nn.Conv2d, role: Role, x: Tensor) -> bool:
        return (
            form_of(conv) == role.form
            and x.shape[1] == conv.weight.shape[1] * conv.groups
            and can_use_kernels(conv.weight)
        )


class FusedNormalization(Fused):
    """Works out scale and shift; whoever reads applies them."""

    def forward(self, input: Tensor) -> Tensor:
        norm = cast(nn.BatchNorm2d, self)
        activation = folded_activation(norm)
        role = self._role_for(input)
        if role is None or activation is None or why_not_normalization(norm):
            return super().forward(computed(input))
        raw = computed(input)
        if raw.shape[1] != norm.weight.shape[0]:  # torch's own message
            return super().forward(raw)
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

    def forward(self, input: Tensor) -> Tensor:
        role, name = self._role_for(input), activation_of(self)
        if role is None or name is None:
            return super().forward(computed(input))
        is_in_place = bool(getattr(self, "inplace", False))
        work = work_of(input)
        if not self._can_note(input, work, role, is_in_place):
            return super().forward(computed(input))
        assert isinstance(work, Affine)
        y = self._handed_on(Affine(work.raw, work.scale, work.shift, name), role)
        return input.becomes(y) if type(input) is Deferred and is_in_place else y

    def _can_note(self, x: Tensor, work: Work, role: Role, is_in_place: bool) -> bool:
        if not isinstance(work, Affine) or work.activation != "none":
            return False
        if work.scale is not None:
            return not is_in_place or (type(x) is Deferred and x.can_note_in_place())
        # A tensor that is there: in place, all who hold it are to see the change.
        return role.defers and not is_in_place


def _statistics_of(y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and variance, if `y` is as the convolution made it."""
    if version_of(y) != 0:
        return None
    return getattr(y, _STATISTICS, None)
