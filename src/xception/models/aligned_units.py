"""The separable convolutions of the aligned networks, with the normalization that each brings."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from xception.nn import Padding
from xception.nn import conv2d as same_conv2d


class NormalizedSeparableConv2d(nn.Module):
    """Depthwise, normalization[, ReLU], pointwise, normalization[, ReLU].

    x: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: partial[nn.BatchNorm2d],
        *,
        stride: int,
        dilation: int,
        padding: Padding,
        activation: bool,
    ) -> None:
        super().__init__()
        self.depthwise = same_conv2d(
            in_channels,
            in_channels,
            3,
            stride=stride,
            dilation=dilation,
            groups=in_channels,
            padding=padding,
        )
        self.depthwise_norm = norm(in_channels)
        self.depthwise_act = nn.ReLU(inplace=True) if activation else nn.Identity()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pointwise_norm = norm(out_channels)
        self.pointwise_act = nn.ReLU(inplace=True) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise_act(self.depthwise_norm(self.depthwise(x)))
        return self.pointwise_act(self.pointwise_norm(self.pointwise(x)))


class PreActivatedSeparableConv2d(nn.Module):
    """Normalization, ReLU, separable convolution with nothing between its two.

    x: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, norm: nn.Module, act: nn.Module, conv: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.act = act
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(self.norm(x)))
