"""Xception (paper Fig. 5), and networks of the same form with other numbers.

`xception.create_model("xception", num_classes=10, segments=4)` builds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from xception.models.block import XceptionBlock
from xception.models.classifier import Classifier
from xception.models.fused_stem import can_fuse_start, fused_start
from xception.models.head import ClassifierHead, Pooling
from xception.models.layout import BlockLayout, Layout
from xception.models.normalization import batch_norm
from xception.models.separable_unit import SeparableUnit
from xception.models.tail import Tail
from xception.nn import (
    IntermediateActivation,
    MaxPool2d,
    Padding,
    SegmentedConv2d,
    Segments,
    SeparableConv2d,
    check_padding,
)
from xception.nn import conv2d as same_conv2d


class XceptionBody(Classifier):
    """Stem, entry, middle and exit flow, and tail; a subclass puts the head on.

    The arguments are those of `Xception`. Raises ValueError naming the argument.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        num_classes: int,
        in_channels: int,
        segments: Segments,
        intermediate_activation: IntermediateActivation,
        residual: bool,
        output_stride: int | None,
        padding: Padding,
        bn_eps: float,
        bn_momentum: float,
    ) -> None:
        super().__init__(num_classes, in_channels, layout.minimum_size)
        check_padding(padding)
        self._segments = segments
        self._intermediate_activation = intermediate_activation
        self._residual = residual
        self._padding = padding
        self._norm = batch_norm(bn_eps, bn_momentum)
        self._reduction = 1
        self._dilation = 1
        self._output_stride = _check_output_stride(output_stride, layout)
        self.feature_info = []
        self._feature_level = 0

        self.stem = self._make_stem(layout, in_channels)
        channels = layout.stem[-1][0]
        self.entry_flow, channels = self._make_flow("entry_flow", layout.entry, channels)
        self.middle_flow, channels = self._make_flow("middle_flow", layout.middle, channels)
        self.exit_flow, channels = self._make_flow("exit_flow", layout.exit, channels)
        self.tail = self._make_tail(layout, channels)
        self._note_feature("tail", layout.tail[-1] if layout.tail else channels)

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        yield "stem", self.stem
        for name in ("entry_flow", "middle_flow", "exit_flow"):
            for index, block in enumerate(getattr(self, name)):
                yield f"{name}.{index}", block
        yield "tail", self.tail

    def _run_first(self, x: Tensor) -> tuple[Tensor, int]:
        """Stem and first block as one stage, fused or not: also where gradients are checkpointed,
        as processes that exchange statistics recompute the same stages in the same order.
        """
        first = next(self.entry_flow.children(), None)
        if first is None:
            return x, 0

        def start(x: Tensor) -> Tensor:
            if can_fuse_start(self.stem, first, x):
                return fused_start(self.stem, first, x)
            return first(self.stem(x))

        return self._run(nn.ModuleList([self.stem, first]), x, start), 2

    def _make_stem(self, layout: Layout, in_channels: int) -> nn.Sequential:
        stem = nn.Sequential()
        for index, (channels, stride) in enumerate(layout.stem, start=1):
            conv: nn.Module
            if layout.stem_padded:
                conv = same_conv2d(in_channels, channels, 3, stride=stride, padding=self._padding)
            else:
                conv = nn.Conv2d(in_channels, channels, 3, stride=stride, bias=False)
            stem.add_module(f"conv{index}", conv)
            stem.add_module(f"norm{index}", self._norm(channels))
            stem.add_module(f"act{index}", nn.ReLU(inplace=True))
            in_channels = channels
            self._reduction *= stride
        self._note_feature("stem", in_channels)
        return stem

    def _make_flow(
        self, flow: str, blocks: Sequence[BlockLayout], channels: int
    ) -> tuple[nn.Sequential, int]:
        made = nn.Sequential()
        for index, block in enumerate(blocks):
            made.append(self._make_block(block, channels))
            channels = block.channels[-1]
            self._note_feature(f"{flow}.{index}", channels)
        return made, channels

    def _make_block(self, layout: BlockLayout, in_channels: int) -> XceptionBlock:
        units = nn.Sequential()
        channels = in_channels
        for index, out_channels in enumerate(layout.channels):
            if index > 0:
                act: nn.Module = nn.ReLU(inplace=True)
            else:  # not in place: the skip connection reads the same tensor
                act = nn.ReLU() if layout.leading_activation else nn.Identity()
            units.append(self._make_unit(act, channels, out_channels))
            channels = out_channels
        pool: nn.Module | None = None
        skip: nn.Module | None = None
        if layout.pool:
            stride = 2 if self._reduction < self._output_stride else 1
            pool = MaxPool2d(stride, self._padding, dilation=self._dilation)
            if self._residual:
                skip = nn.Sequential()
                skip.add_module("conv", nn.Conv2d(in_channels, channels, 1, stride, bias=False))
                skip.add_module("norm", self._norm(channels))
            self._reduction *= stride
            self._dilation *= 2 // stride
        elif self._residual:
            skip = nn.Identity()
        return XceptionBlock(units, pool, skip)

    def _make_tail(self, layout: Layout, channels: int) -> Tail:
        tail = Tail()
        if not layout.tail and layout.tail_activation:
            tail.append(nn.ReLU())
        for out_channels in layout.tail:
            tail.append(self._make_unit(nn.Identity(), channels, out_channels))
            tail.append(nn.ReLU(inplace=True))
            channels = out_channels
        return tail

    def _make_unit(self, act: nn.Module, in_channels: int, out_channels: int) -> SeparableUnit:
        settings: dict[str, Any] = {
            "dilation": self._dilation,
            "intermediate_activation": self._intermediate_activation,
            "padding": self._padding,
        }
        conv: nn.Module
        if self._segments == "channels":
            conv = SeparableConv2d(in_channels, out_channels, 3, **settings)
        else:
            conv = SegmentedConv2d(
                in_channels,
                out_channels,
                3,
                segments=self._segments,
                order="depthwise_first",
                **settings,
            )
        return SeparableUnit(act, conv, self._norm(out_channels))

    def _note_feature(self, module: str, channels: int) -> None:
        """Keep the last module between two places of pooling, whether these stride or dilate."""
        level = self._reduction * self._dilation
        if level == self._feature_level:
            self.feature_info.pop()
        self._feature_level = level
        self.feature_info.append(
            {"num_chs": channels, "reduction": self._reduction, "module": module}
        )


class Xception(XceptionBody):
    """Stem, entry, middle and exit flow, and the classifier (paper Fig. 5).

    x: (N, in_channels, H, W) -> (N, num_classes) logits; H and W at least `minimum_size`.

    segments: "channels" (separable) or 1..channels spatial segments in every layer (section 1.1)
    intermediate_activation: "none", "relu" or "elu" between depthwise and pointwise (Fig. 10)
    residual: False removes the residual connections (Fig. 9)
    pooling: "avg" or "max" over the feature map
    fc_units: fully connected layers before the classes (the paper's JFT variant: (4096, 4096))
    head_layers: any layers between pooling and classes, instead of `fc_units`: "linear 256",
        "batchnorm 0.001 0.01", "relu", "dropout 0.5" and others (see `make_head_layers`)
    dropout: before the logistic regression (paper: 0.5 on ImageNet)
    output_stride: input pixels a feature pixel: 2, 4, 8, 16 or 32 for the paper's network; the
        strides left out are made up for by dilation (DeepLab's way; there 8 or 16)
    padding: "keras" (TensorFlow's SAME) or "torch" (symmetric, as PyTorch ports)
    bn_eps, bn_momentum: batch normalization's; momentum in torch's sense (1 - Keras's)

    Weights start as torch's layers start them (the paper does not state its initialisation).
    Raises ValueError naming the argument.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        segments: Segments = "channels",
        intermediate_activation: IntermediateActivation = "none",
        residual: bool = True,
        pooling: Pooling = "avg",
        fc_units: Sequence[int] = (),
        head_layers: Sequence[str] = (),
        dropout: float = 0.0,
        output_stride: int | None = None,
        padding: Padding = "keras",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__(
            layout,
            num_classes=num_classes,
            in_channels=in_channels,
            segments=segments,
            intermediate_activation=intermediate_activation,
            residual=residual,
            output_stride=output_stride,
            padding=padding,
            bn_eps=bn_eps,
            bn_momentum=bn_momentum,
        )
        self.head = ClassifierHead(
            self.num_features,
            num_classes,
            pooling=pooling,
            fc_units=fc_units,
            head_layers=head_layers,
            dropout=dropout,
        )


def _check_output_stride(output_stride: int | None, layout: Layout) -> int:
    """The reduction to stop at: one that the network reaches; the stem's strides always stay.

    Source: DeepLab's `stack_blocks_dense`, "equal to the product of unit strides from the start up
    to some level of Xception".
    """
    reached = [prod(stride for _, stride in layout.stem)]
    for block in (*layout.entry, *layout.middle, *layout.exit):
        if block.pool:
            reached.append(reached[-1] * 2)
    if output_stride is None:
        return reached[-1]
    if output_stride not in reached:
        raise ValueError(
            f"output_stride must be one of {reached} for this network, got {output_stride!r}"
        )
    return output_stride
