"""Gradient checkpointing that counts a batch once in the batch normalization buffers.

Recomputing a block runs its batch normalization a second time; left alone, running mean and
variance would move twice a step. And where processes exchange statistics, it runs the exchanges
again: there all processes have to recompute the same blocks, to their ends, at the same places of
the backward pass, though they may compute them differently (with kernels or without).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from xception.nn import SyncBatchNorm2d

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
    torch.compile recomputes without side effects what it takes into its graph; a block that it
    cannot take whole (something in it breaks the graph) runs as it does without the compiler.
    """
    function = block if forward is None else forward
    recomputing = False

    def run(x: Tensor) -> Any:
        nonlocal recomputing
        if torch.compiler.is_compiling():
            return function(x)
        if recomputing:
            with _buffers_kept(block):
                return _anchored(block, function(x))
        recomputing = True
        return _anchored(block, function(x))

    return checkpoint(run, x, use_reentrant=False)


def _anchored(block: nn.Module, out: Any) -> Any:
    """`out`, made so that backward begins with the whole recomputation where that exchanges.

    Left alone, it begins when something kept is first read, and stops once all that was kept is
    there again; both depend on how the block was computed.
    """
    if not any(
        isinstance(layer, SyncBatchNorm2d) and layer.training and layer.is_shared()
        for layer in block.modules()
    ):
        return out
    return _Anchor.apply(out) if isinstance(out, Tensor) else _Anchor.apply(*out)


class _Anchor(torch.autograd.Function):
    """The tensors themselves; keeps something, the last of the block, and reads it first."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Any:
        ctx.save_for_backward(tensors[0].new_empty(0))
        ctx.set_materialize_grads(False)
        same = tuple(tensor.detach() for tensor in tensors)
        return same if len(same) > 1 else same[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        _ = ctx.saved_tensors
        return grads if len(grads) > 1 else grads[0]
