"""Torch's functions as `__torch_function__` sees them, by what they do to a deferred tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ADDITIONS: set[Callable[..., Any]] = {Tensor.add, Tensor.__add__, Tensor.__radd__, torch.add}
ADDITIONS_IN_PLACE: set[Callable[..., Any]] = {Tensor.add_, Tensor.__iadd__}

_PROPERTIES = (
    "shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_leaf", "is_cuda",
    "is_sparse", "is_quantized", "is_meta",
)  # fmt: skip

# What is asked of a tensor without its numbers.
QUESTIONS: set[Callable[..., Any]] = {
    Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.__hash__,
    Tensor.is_floating_point, Tensor.is_complex, Tensor.is_inference, torch.numel,
    torch.is_floating_point,
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES),
}  # fmt: skip

# Those among them that the object itself answers for as long as it lives.
OF_THE_OBJECT: set[Callable[..., Any]] = {Tensor.__hash__}
