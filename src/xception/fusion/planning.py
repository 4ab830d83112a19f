"""What to swap: each module's role among its neighbours, or the reason to leave it."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import cast

from torch import nn

from xception.fusion.layers import Role
from xception.fusion.legality import (
    activation_of,
    folded_activation,
    form_of,
    has_depthwise_form,
    has_pointwise_form,
    is_convolution,
    is_normalization,
    why_not_convolution,
    why_not_normalization,
)
from xception.fusion.profit import why_not_worth, why_not_worth_alone
from xception.fusion.recording import ADDITION, Seen

NOT_CALLED = "not called in the example"


class Plan:
    """Roles of the modules to swap, and reasons of the others, in the order of their calls."""

    def __init__(self, seen: Mapping[nn.Module, Seen]) -> None:
        self.seen = seen
        self.roles: dict[nn.Module, Role] = {}
        self.reasons: dict[nn.Module, str] = {}
        self._convolutions: set[nn.Module] = set()
        self._normalizations: set[nn.Module] = set()
        self._activations: set[nn.Module] = set()
        self._choose_convolutions()
        self._choose_normalizations()
        self._choose_activations()
        self._assign()

    def _choose_convolutions(self) -> None:
        """Those before a normalization first, then the depthwise ones right before one of those."""
        others = []
        for module, seen in self.seen.items():
            if not is_convolution(module):
                continue
            conv = cast(nn.Conv2d, module)
            reason = why_not_convolution(conv) or _why_not_input(seen)
            reason = reason or why_not_worth(conv, seen.input_shapes[0])
            if reason:
                self.reasons[module] = reason
            elif conv.bias is None and self._is_normalized(seen):
                self._convolutions.add(module)
            else:
                others.append((conv, seen))
        for conv, seen in others:
            if conv.bias is None and self._is_separable(conv, seen):
                self._convolutions.add(conv)
                continue
            reason = "no batch normalization behind it" if conv.bias is None else "has a bias"
            alone = why_not_worth_alone(conv) if has_depthwise_form(conv) else "nothing to fold in"
            if alone:
                self.reasons[conv] = f"{reason}, {alone}"
            else:
                self.roles[conv] = Role(is_alone=True, form=form_of(conv))

    def _choose_normalizations(self) -> None:
        for module, seen in self.seen.items():
            if not is_normalization(module):
                continue
            norm = cast(nn.BatchNorm2d, module)
            reason = why_not_normalization(norm)
            if reason is None and folded_activation(norm) is None:
                reason = "applies an activation that is not known here"
            if reason is None and not (self._follows_convolutions(seen) or self._is_folded(seen)):
                reason = "neither side of it is swapped"
            if reason:
                self.reasons[module] = reason
            else:
                self._normalizations.add(module)

    def _choose_activations(self) -> None:
        for module, seen in self.seen.items():
            if activation_of(module) is None:
                continue
            follows = all(source in self._normalizations for source in seen.sources)
            is_in_place = bool(getattr(module, "inplace", False))
            if follows or (not is_in_place and self._is_read_by_convolutions(seen)):
                self._activations.add(module)
            else:
                self.reasons[module] = "no swapped normalization before it"

    def _assign(self) -> None:
        for module, seen in self.seen.items():
            hooks = _hooks_around(seen)
            if module in self._convolutions:
                conv = cast(nn.Conv2d, module)
                is_followed = any(reader in self._normalizations for reader in seen.readers)
                defers = self._is_separable(conv, seen) and not seen.is_overwritten
                self.roles[module] = Role(is_followed, defers, form=form_of(conv), hooks=hooks)
            elif module in self._normalizations:
                takes = not self._follows_convolutions(seen)
                has_inner = folded_activation(cast(nn.BatchNorm2d, module)) != "none"
                defers = self._knows_deferred(seen, is_normalized=not has_inner)
                self.roles[module] = Role(takes, defers, hooks=hooks)
            elif module in self._activations:
                defers = self._knows_deferred(seen, is_normalized=False)
                self.roles[module] = Role(defers=defers, hooks=hooks)

    def _follows_convolutions(self, seen: Seen) -> bool:
        return all(source in self._convolutions for source in seen.sources)

    def _is_normalized(self, seen: Seen) -> bool:
        """Whether batch normalization, and nothing else, reads it."""
        return bool(seen.readers) and all(
            isinstance(reader, nn.Module)
            and is_normalization(reader)
            and why_not_normalization(cast(nn.BatchNorm2d, reader)) is None
            for reader in seen.readers
        )

    def _is_folded(self, seen: Seen) -> bool:
        """Whether swapped convolutions read it, perhaps through an activation."""
        if not seen.readers:
            return False
        for reader in seen.readers:
            if isinstance(reader, nn.Module) and activation_of(reader) is not None:
                if not self._is_read_by_convolutions(self.seen[reader]):
                    return False
            elif reader not in self._convolutions:
                return False
        return True

    def _is_read_by_convolutions(self, seen: Seen) -> bool:
        return bool(seen.readers) and all(r in self._convolutions for r in seen.readers)

    def _knows_deferred(self, seen: Seen, is_normalized: bool) -> bool:
        """Whether every reader folds it in; `is_normalized`: no activation is applied yet."""
        if not seen.readers or seen.is_overwritten:  # what is put off would read what is written
            return False
        for reader in seen.readers:
            if reader in self._convolutions:
                continue
            if not (is_normalized and (reader == ADDITION or reader in self._activations)):
                return False
        return True

    def _is_separable(self, conv: nn.Conv2d, seen: Seen) -> bool:
        """A depthwise convolution with a pointwise one right behind: one operator for both."""
        if not has_depthwise_form(conv) or len(seen.readers) != 1:
            return False
        reader = seen.readers[0]
        return (
            isinstance(reader, nn.Conv2d)
            and reader in self._convolutions
            and has_pointwise_form(reader)
            and reader.stride == (1, 1)
            and reader.padding == (0, 0)
        )


def _why_not_input(seen: Seen) -> str | None:
    if not all(len(shape) == 4 for shape in seen.input_shapes):
        return "called with a single picture (C, H, W)"
    return None


def _hooks_around(seen: Seen) -> tuple[Sized, ...]:
    """Those of the modules that see its output: readers, and containers on the way to them."""
    readers = [reader for reader in seen.readers if isinstance(reader, nn.Module)]
    return tuple(
        hooks
        for module in dict.fromkeys([*readers, *seen.containers])
        for hooks in (
            module._forward_pre_hooks,
            module._forward_hooks,
            module._backward_pre_hooks,
            module._backward_hooks,
        )
    )
