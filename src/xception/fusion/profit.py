"""Which convolutions are worth it: where torch's own are faster, they stay.

What is legal is decided elsewhere. These are measurements put into rules, in one place: training
steps of batch 8 and 16 in float32, AVX-512, the allocator tuned (docs/fuse.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def why_not_worth(conv: nn.Conv2d, shape: Sequence[int]) -> str | None:
    """The reason to leave a convolution that could be swapped; None: swap it.

    shape: its input's, (N, C, H, W)
    """
    height, width = shape[2:]
    if height * width == 1:
        return "a single pixel: torch's product of matrices is faster"
    return None


def why_not_worth_alone(conv: nn.Conv2d) -> str | None:
    """The same for a depthwise convolution that has nothing around it to fold in.

    Torch's way back takes 1.2 to 4 times as long as ours from 5x5 on; with 3x3 it is the faster.
    """
    if max(conv.kernel_size) < 5:
        return "and torch's is faster for a small kernel by itself"
    return None
