"""One module of Fig. 5: separable convolutions and the residual connection around them."""

from __future__ import annotations

from torch import Tensor, nn

from xception.models.fused_block import can_fuse, fused


class XceptionBlock(nn.Module):
    """One module of Fig. 5: units, an optional max pool, a linear residual connection around.

    x: (N, in_channels, H, W) -> (N, channels[-1], ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, units: nn.Module, pool: nn.Module | None, skip: nn.Module | None) -> None:
        super().__init__()
        self.units = units
        self.pool = pool
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        if can_fuse(self.units, self.pool, self.skip, x):
            return fused(self.units, self.pool, self.skip, x)
        y = self.units(x)
        if self.pool is not None:
            y = self.pool(y)
        return y if self.skip is None else y + self.skip(x)
