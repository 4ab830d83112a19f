"""The Inception module of the paper's Fig. 1 and its simplified form of Fig. 2."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from xception.nn.activation import IntermediateActivation, intermediate_activation_layer
from xception.nn.padding import Padding, average_pool3x3, conv2d
from xception.nn.segmented import SegmentedConv2d, split_evenly


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalization, ReLU: the unit of Inception V3."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, padding: Padding = "keras"
    ) -> None:
        super().__init__(
            conv2d(in_channels, out_channels, kernel_size, padding=padding),
            nn.BatchNorm2d(out_channels, eps=1e-3),
            nn.ReLU(inplace=True),
        )


class InceptionModule(nn.Module):
    """The canonical Inception V3 module (paper Fig. 1): four branches over one input.

    x: (N, in_channels, H, W) -> (N, sum of the branches' outputs, H, W)

    branch1x1: channels of the 1x1 branch
    branch3x3: (1x1, 3x3) channels
    branch3x3x2: (1x1, 3x3, 3x3) channels of the branch with two 3x3
    pool: channels of the 1x1 after the 3x3 average pool

    Every convolution is followed by batch normalization and ReLU. The defaults are the channels of
    Inception V3's 35x35 modules, with 3x3 in the place of its 5x5.
    """

    def __init__(
        self,
        in_channels: int,
        branch1x1: int = 64,
        branch3x3: tuple[int, int] = (48, 64),
        branch3x3x2: tuple[int, int, int] = (64, 96, 96),
        pool: int = 64,
        *,
        padding: Padding = "keras",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.branch1x1 = ConvNormAct(in_channels, branch1x1, 1)
        self.branch3x3 = nn.Sequential(
            ConvNormAct(in_channels, branch3x3[0], 1),
            ConvNormAct(branch3x3[0], branch3x3[1], 3, padding=padding),
        )
        self.branch3x3x2 = nn.Sequential(
            ConvNormAct(in_channels, branch3x3x2[0], 1),
            ConvNormAct(branch3x3x2[0], branch3x3x2[1], 3, padding=padding),
            ConvNormAct(branch3x3x2[1], branch3x3x2[2], 3, padding=padding),
        )
        self.pool = ConvNormAct(in_channels, pool, 1)
        self.out_channels = branch1x1 + branch3x3[-1] + branch3x3x2[-1] + pool

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch1x1(x),
            self.branch3x3(x),
            self.branch3x3x2(x),
            self.pool(average_pool3x3(x)),
        )
        return torch.cat(branches, dim=1)


class SimplifiedInception(nn.Module):
    """N towers, each 1x1 then 3x3, no pooling, results side by side (paper Fig. 2).

    x: (N, in_channels, H, W) -> (N, out_channels, H, W)

    Output channels are split over the towers as evenly as possible, and each tower's 1x1 gives as
    many as its 3x3. `to_segmented()` is the strictly equivalent form of Fig. 3.
    Raises ValueError for fewer than one tower or more towers than output channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        towers: int,
        *,
        kernel_size: int = 3,
        intermediate_activation: IntermediateActivation = "none",
        padding: Padding = "keras",
        bias: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= towers <= out_channels:
            raise ValueError(
                f"towers must be at least 1 and at most out_channels ({out_channels}), got {towers}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.intermediate_activation = intermediate_activation
        self.padding = padding
        self.bias = bias
        self.towers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False),
                intermediate_activation_layer(intermediate_activation),
                conv2d(channels, channels, kernel_size, bias=bias, padding=padding),
            )
            for channels in split_evenly(out_channels, towers)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([tower(x) for tower in self.towers], dim=1)

    @torch.no_grad()
    def to_segmented(self) -> SegmentedConv2d:
        """The same function as one large 1x1 and a convolution a segment (Fig. 3), weights moved.

        The result has its own copies of the weights, in this module's dtype and on its device.
        """
        segmented = SegmentedConv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            segments=len(self.towers),
            order="pointwise_first",
            intermediate_activation=self.intermediate_activation,
            padding=self.padding,
            bias=self.bias,
        )
        towers = [cast(nn.Sequential, tower) for tower in self.towers]
        pointwise = [cast(nn.Conv2d, tower[0]) for tower in towers]
        spatial = iter([cast(nn.Conv2d, tower[2]) for tower in towers])
        segmented.to(pointwise[0].weight.device, pointwise[0].weight.dtype)
        segmented.pointwise.weight.copy_(torch.cat([conv.weight for conv in pointwise]))
        for module in segmented.spatial.runs:  # equal segments share one grouped convolution
            run = cast(nn.Conv2d, module)
            parts = [next(spatial) for _ in range(run.groups)]
            run.weight.copy_(torch.cat([conv.weight for conv in parts]))
            if run.bias is not None:
                run.bias.copy_(torch.cat([cast(Tensor, conv.bias) for conv in parts]))
        return segmented.train(self.training)
