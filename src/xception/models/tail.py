"""What stands behind the last block: separable units with activations between and after them."""

from __future__ import annotations

from torch import Tensor, nn

from xception.models.fused_block import can_fuse_chain, fused_chain


class Tail(nn.Sequential):
    """Separable units and ReLUs, one after the other.

    x: (N, C, H, W) -> (N, O, H, W), O the channels of the last unit
    """

    def forward(self, x: Tensor) -> Tensor:
        if can_fuse_chain(self, x):
            return fused_chain(self, x)
        return super().forward(x)  # type: ignore[no-untyped-call]
