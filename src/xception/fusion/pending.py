"""What a deferred tensor stands for, as plain data: tensors that are there, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xception.ops import activated, merge, separable_unit


@dataclass(frozen=True, slots=True)
class Affine:
    """activation(raw * scale + shift); raw (N, C, H, W), scale and shift (C,) or both None."""

    raw: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None
    activation: str = "none"

    @property
    def shape(self) -> torch.Size:
        return self.raw.shape

    def tensors(self) -> list[Tensor | None]:
        return [self.raw, self.scale, self.shift]

    def with_tensors(self, tensors: Sequence[Tensor | None]) -> Affine:
        raw, scale, shift = tensors
        assert raw is not None
        return replace(self, raw=raw, scale=scale, shift=shift)

    def without_tensors(self) -> Affine:
        """Its settings, for `with_tensors` later on."""
        return Affine(torch.empty(0), activation=self.activation)

    def compute(self) -> Tensor:
        if self.scale is None or self.shift is None:
            return activated(self.raw, self.activation)
        if self.activation == "none":
            return merge(self.raw, self.scale, self.shift)
        # A unit of no step, since unlike `merge` it needs its output for nothing on the way back:
        # whoever reads it may write into it.
        return separable_unit(
            self.raw, self.scale, self.shift, None, None,
            activation=self.activation, statistics=False,
        )[0]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filtered:
    """The depthwise convolution of `source`, which the pointwise one behind it takes over.

    depthwise: (C, 1, kh, kw); stride, dilation: (height, width); padding: top, bottom, left, right
    """

    source: Affine
    depthwise: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    @property
    def shape(self) -> torch.Size:
        n, c, *size = self.source.shape
        sizes = [
            (size[i] + self.padding[2 * i] + self.padding[2 * i + 1]
             - self.dilation[i] * (self.depthwise.shape[2 + i] - 1) - 1) // self.stride[i] + 1
            for i in range(2)
        ]  # fmt: skip
        return torch.Size([n, c, *sizes])

    def tensors(self) -> list[Tensor | None]:
        return [*self.source.tensors(), self.depthwise]

    def with_tensors(self, tensors: Sequence[Tensor | None]) -> Filtered:
        *source, depthwise = tensors
        assert depthwise is not None
        return replace(self, source=self.source.with_tensors(source), depthwise=depthwise)

    def without_tensors(self) -> Filtered:
        return replace(
            self, source=self.source.without_tensors(), depthwise=self.depthwise.new_empty(0)
        )

    def compute(self) -> Tensor:
        return self.convolved(None, statistics=False)[0]

    def convolved(
        self, pointwise: Tensor | None, statistics: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Depthwise, then `pointwise` (O, C, 1, 1): y, its mean and its variance."""
        source = self.source
        return separable_unit(
            source.raw, source.scale, source.shift, self.depthwise, pointwise,
            activation=source.activation, stride=self.stride, padding=self.padding,
            dilation=self.dilation, statistics=statistics,
        )  # fmt: skip
