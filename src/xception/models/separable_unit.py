"""One layer of Fig. 5 as the modules that own its weights."""

from __future__ import annotations

from torch import Tensor, nn


class SeparableUnit(nn.Module):
    """[ReLU,] separable (or segmented) convolution, batch normalization: one layer of Fig. 5.

    x: (N, in_channels, H, W) -> (N, out_channels, H, W)
    """

    def __init__(self, act: nn.Module, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.act = act
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.act(x)))
