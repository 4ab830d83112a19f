"""Gradient checkpointing that counts a batch once in the batch normalization buffers.

Recomputing a block runs its batch normalization a second time; left alone, running mean and
variance would move twice a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Let batch normalization write into copies of its buffers, and drop these afterwards."""
    kept: list[tuple[nn.Module, dict[str, Any]]] = []
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.training:
            kept.append((layer, {name: layer._buffers[name] for name in _BUFFERS}))
            for name in _BUFFERS:
                buffer = layer._buffers[name]
                layer._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for layer, buffers in kept:
            layer._buffers.update(buffers)


def checkpoint_block(
    block: nn.Module, x: Tensor, forward: Callable[[Tensor], Any] | None = None
) -> Any:
    """`block(x)` (or `forward(x)`, a method of the block's), keeping only `x` for backward.

    The rest is computed again then. Gradients and buffers equal those without checkpointing.
    Inside torch.compile the compiler recomputes without side effects by itself.
    """
    function = block if forward is None else forward
    if torch.compiler.is_compiling():
        return checkpoint(function, x, use_reentrant=False)
    return checkpoint(
        function,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _buffers_kept(block)),
    )
