"""The spectrum between a regular and a depthwise separable convolution: N spatial segments.

One 1x1 convolution, whose channels are cut into N segments; a spatial convolution on each; the
results side by side (paper Fig. 3). N = 1 is a 1x1 followed by a regular convolution, 3 or 4 is
Inception, N = channels is extreme Inception (Fig. 4).
"""

from __future__ import annotations

from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from xception.nn.activation import IntermediateActivation, intermediate_activation_layer
from xception.nn.padding import Padding, conv2d
from xception.nn.separable import Order, check_order

Segments = int | Literal["channels"]


def split_evenly(channels: int, parts: int) -> list[int]:
    """`channels` cut into `parts` sizes that differ by at most one, the larger ones first."""
    quotient, remainder = divmod(channels, parts)
    return [quotient + 1] * remainder + [quotient] * (parts - remainder)


def resolve_segments(segments: Segments, channels: int) -> int:
    """The number of segments; raises ValueError when it is not within 1..channels."""
    number = channels if segments == "channels" else segments
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"segments must be a positive integer or 'channels', got {segments!r}")
    if number > channels:
        raise ValueError(
            f"segments ({number}) cannot exceed the channels that are divided ({channels}); "
            "use segments='channels' for one a channel"
        )
    return number


class SegmentedSpatialConv2d(nn.Module):
    """A spatial convolution on each of N segments of the channels, results side by side.

    x: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    Both channel counts are split as evenly as possible. Segments of equal shape are one grouped
    convolution, so there are at most three of them whatever N is. `runs` holds these in order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        segments: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: Padding = "keras",
        bias: bool = False,
    ) -> None:
        super().__init__()
        if segments > out_channels:
            raise ValueError(f"segments ({segments}) cannot exceed out_channels ({out_channels})")
        self.segment_shapes = list(
            zip(split_evenly(in_channels, segments), split_evenly(out_channels, segments))
        )
        self.runs = nn.ModuleList()
        self.run_in_channels: list[int] = []
        for (segment_in, segment_out), group in groupby(self.segment_shapes):
            count = len(list(group))
            self.run_in_channels.append(segment_in * count)
            self.runs.append(
                conv2d(
                    segment_in * count,
                    segment_out * count,
                    kernel_size,
                    stride=stride,
                    dilation=dilation,
                    groups=count,
                    bias=bias,
                    padding=padding,
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        if len(self.runs) == 1:
            return self.runs[0](x)
        pieces = torch.split(x, self.run_in_channels, dim=1)
        return torch.cat([conv(piece) for conv, piece in zip(self.runs, pieces)], dim=1)


class SegmentedConv2d(nn.Module):
    """1x1 convolution and a spatial convolution on N segments of its channels (paper Fig. 3).

    x: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    segments: 1..channels, or "channels"; it divides the channels of the tensor that the spatial
        convolution sees: the 1x1's output ("pointwise_first") or the input ("depthwise_first").
        Channels that do not divide evenly are split as evenly as possible.
    order: "pointwise_first" (Inception, Fig. 3 and 4) or "depthwise_first" (spatial step first, as
        in a separable convolution; with segments="channels" it is `SeparableConv2d`)
    intermediate_activation: "none", "relu" or "elu" between the two
    bias: adds a bias to the second of the two

    Raises ValueError naming the argument. Source: paper section 1.1 and Fig. 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        segments: Segments,
        order: Order = "pointwise_first",
        intermediate_activation: IntermediateActivation = "none",
        stride: int = 1,
        dilation: int = 1,
        padding: Padding = "keras",
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_order(order)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.order = order
        pointwise_first = order == "pointwise_first"
        spatial_channels = out_channels if pointwise_first else in_channels
        self.segments = resolve_segments(segments, spatial_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias and not pointwise_first)
        self.intermediate_activation = intermediate_activation_layer(intermediate_activation)
        self.spatial = SegmentedSpatialConv2d(
            spatial_channels,
            spatial_channels,
            kernel_size,
            self.segments,
            stride=stride,
            dilation=dilation,
            padding=padding,
            bias=bias and pointwise_first,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "pointwise_first":
            return self.spatial(self.intermediate_activation(self.pointwise(x)))
        return self.pointwise(self.intermediate_activation(self.spatial(x)))

    def extra_repr(self) -> str:
        return f"segments={self.segments}, order={self.order!r}"
