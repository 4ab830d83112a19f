"""Calling an operator's body without the dispatcher, where nothing but autograd would look at it.

A registered operator is visible to compilers, exporters, fake tensors and modes. That costs about
0.1 ms a call each way, and the first call imports torch's compiler, which takes longer than all
else that a prediction does. In an ordinary eager call nobody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def is_ordinary(*tensors: Tensor | None) -> bool:
    """Whether these are tensors of no subclass, outside compilers and dispatch modes."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return all(t is None or type(t) in (Tensor, nn.Parameter) for t in tensors)


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Whether autograd has to hear of a call with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def differentiable_gradients(
    reference: Callable[..., tuple[Tensor, ...] | Tensor],
    inputs: Sequence[Any],
    needs_gradient: Sequence[bool],
    arriving: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients of `reference(*inputs)`, themselves differentiable; None where none is needed.

    arriving: of each output; None where nothing arrives
    """
    # Each by itself: one may be computed from another, as a shift is from a scale, and the
    # gradient by that way belongs to whoever computed it.
    inputs = [x.view_as(x) if needs else x for x, needs in zip(inputs, needs_gradient, strict=True)]
    outputs = reference(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    met = [(out, grad) for out, grad in zip(outputs, arriving, strict=False) if grad is not None]
    wanted = [x for x, needs in zip(inputs, needs_gradient, strict=True) if needs]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in met],
            wanted,
            [grad for _, grad in met],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if needs else None for needs in needs_gradient)
