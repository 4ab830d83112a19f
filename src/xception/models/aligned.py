"""The aligned Xceptions of DeepLab (41, 65, 71 layers) and their pre-activation forms (41p, 65p).

They stride inside the last separable convolution of a block where the paper's network pools, and
keep every convolution padded, so that feature maps stay aligned with the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from xception.models.aligned_layout import AlignedBlockLayout, AlignedLayout
from xception.models.aligned_units import NormalizedSeparableConv2d, PreActivatedSeparableConv2d
from xception.models.classifier import Classifier
from xception.models.fused_aligned import can_fuse_units, fused_units
from xception.models.head import ClassifierHead
from xception.models.normalization import batch_norm
from xception.nn import Padding, SeparableConv2d, check_padding
from xception.nn import conv2d as same_conv2d

_FLOWS = ("entry_flow", "middle_flow", "exit_flow")


class AlignedBlock(nn.Module):
    """Three separable convolutions and a residual connection around them.

    x: (N, in_channels, H, W) -> (N, channels[-1], ceil(H / stride), ceil(W / stride))

    In the pre-activation form the block's own normalization and ReLU come first, and the residual
    connection starts after them.
    """

    def __init__(
        self, skip: nn.Module | None, norm: nn.Module, act: nn.Module, units: nn.Sequential
    ) -> None:
        super().__init__()
        self.skip = skip
        self.norm = norm
        self.act = act
        self.units = units

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(x))
        return _through(list(self.units), x, self.skip, x)

    def forward_with_tap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what enters the last convolution: the block's finest, deepest map."""
        x = self.act(self.norm(x))
        *before, last = self.units
        tap = _through(before, x, None, x)
        return _through([last], tap, self.skip, x), tap

    def end_at_tap(self) -> None:
        """Drop what comes after the tap; the block returns the tap from now on."""
        self.units[-1] = nn.Identity()
        self.skip = None


def _through(units: list[nn.Module], x: Tensor, skip: nn.Module | None, around: Tensor) -> Tensor:
    """`units` one after the other from x; and, added to it, what `skip` makes of `around`."""
    if can_fuse_units(units, skip, x):
        return fused_units(units, x, skip, around)
    for unit in units:
        x = unit(x)
    return x if skip is None else x + skip(around)


class AlignedXception(Classifier):
    """Stem, entry, middle and exit flow of strided blocks, and the classifier.

    x: (N, in_channels, H, W) -> (N, num_classes) logits; H and W at least `minimum_size`.

    dropout: before the logistic regression
    output_stride: 8, 16 or 32 input pixels a feature pixel; a stride left out is made up for by
        dilating the convolutions after it
    padding: "torch" (symmetric, as the published weights have it) or "keras" (TensorFlow's SAME)
    bn_eps, bn_momentum: batch normalization's; momentum in torch's sense

    `feature_info` taps each strided block before its last convolution, as DeepLab's decoder does.
    Raises ValueError naming the argument. Source: Chen et al., arXiv 1802.02611, section 3.3 and
    Fig. 4; the numbers of timm's `xception_aligned`.
    """

    def __init__(
        self,
        layout: AlignedLayout,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        output_stride: int = 32,
        padding: Padding = "torch",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__(num_classes, in_channels, layout.minimum_size)
        check_padding(padding)
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be one of [8, 16, 32], got {output_stride!r}")
        self._padding = padding
        self._norm = batch_norm(bn_eps, bn_momentum)
        self._pre_activation = layout.pre_activation
        self._output_stride = output_stride
        self._reduction = 2
        self._dilation = 1
        self.feature_info = []

        self.stem = self._make_stem(in_channels, layout.stem)
        channels = layout.stem[-1]
        self.entry_flow, channels = self._make_flow("entry_flow", layout.entry, channels)
        self.middle_flow, channels = self._make_flow("middle_flow", layout.middle, channels)
        self.exit_flow, channels = self._make_flow("exit_flow", layout.exit, channels)
        self._note_feature(f"exit_flow.{len(layout.exit) - 1}", channels)
        # Not in place: the last block's output is a feature map.
        self.tail = nn.ReLU() if layout.pre_activation else nn.Identity()
        self.head = ClassifierHead(channels, num_classes, dropout=dropout)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        yield "stem", self.stem
        for name in _FLOWS:
            for index, block in enumerate(getattr(self, name)):
                yield f"{name}.{index}", block
        yield "tail", self.tail

    def _make_stem(self, in_channels: int, channels: tuple[int, int]) -> nn.Sequential:
        first, second = channels
        stem = nn.Sequential()
        conv1 = same_conv2d(in_channels, first, 3, stride=2, padding=self._padding)
        stem.add_module("conv1", conv1)
        stem.add_module("norm1", self._norm(first))
        stem.add_module("act1", nn.ReLU(inplace=True))
        stem.add_module("conv2", same_conv2d(first, second, 3, padding=self._padding))
        if not self._pre_activation:  # else the first block begins with them
            stem.add_module("norm2", self._norm(second))
            stem.add_module("act2", nn.ReLU(inplace=True))
        return stem

    def _make_flow(
        self, flow: str, blocks: Sequence[AlignedBlockLayout], channels: int
    ) -> tuple[nn.Sequential, int]:
        made = nn.Sequential()
        for index, layout in enumerate(blocks):
            stride = layout.stride
            if self._reduction * stride > self._output_stride:
                stride = 1
            block = self._make_block(layout, channels, stride)
            made.append(block)
            if layout.stride > 1:
                tap = list(dict(block.units.named_children()))[-2]
                self._note_feature(f"{flow}.{index}.units.{tap}", layout.channels[-2])
            self._reduction *= stride
            self._dilation *= layout.stride // stride
            channels = layout.channels[-1]
        return made, channels

    def _make_block(
        self, layout: AlignedBlockLayout, in_channels: int, stride: int
    ) -> AlignedBlock:
        skip: nn.Module | None = None
        if layout.skip:
            skip = self._make_skip(in_channels, layout.channels[-1], stride)
        norm: nn.Module = nn.Identity()
        act: nn.Module = nn.Identity()
        if self._pre_activation:
            norm, act = self._norm(in_channels), nn.ReLU(inplace=True)
        units = nn.Sequential()
        channels = in_channels
        last = len(layout.channels)
        for number, out_channels in enumerate(layout.channels, start=1):
            unit_stride = stride if number == last else 1
            if self._pre_activation:
                first = number == 1  # the block's own normalization and ReLU stand before it
                unit = self._make_pre_activated(channels, out_channels, unit_stride, bare=first)
            else:
                if not layout.inner_activation:
                    # The first is not in place: the skip connection reads the same tensor.
                    units.add_module(f"act{number}", nn.ReLU(inplace=number > 1))
                unit = NormalizedSeparableConv2d(
                    channels,
                    out_channels,
                    self._norm,
                    stride=unit_stride,
                    dilation=self._dilation,
                    padding=self._padding,
                    activation=layout.inner_activation,
                )
            units.add_module(f"conv{number}", unit)
            channels = out_channels
        return AlignedBlock(skip, norm, act, units)

    def _make_skip(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        if in_channels == out_channels and stride == 1:
            return nn.Identity()
        conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        if self._pre_activation:
            return conv
        skip = nn.Sequential()
        skip.add_module("conv", conv)
        skip.add_module("norm", self._norm(out_channels))
        return skip

    def _make_pre_activated(
        self, in_channels: int, out_channels: int, stride: int, *, bare: bool
    ) -> nn.Module:
        return PreActivatedSeparableConv2d(
            nn.Identity() if bare else self._norm(in_channels),
            nn.Identity() if bare else nn.ReLU(inplace=True),
            SeparableConv2d(
                in_channels,
                out_channels,
                3,
                stride=stride,
                dilation=self._dilation,
                padding=self._padding,
            ),
        )

    def _note_feature(self, module: str, channels: int) -> None:
        self.feature_info.append(
            {"num_chs": channels, "reduction": self._reduction, "module": module}
        )
