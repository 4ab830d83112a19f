"""RMSprop as TensorFlow has it, which the paper trained with on JFT.

`torch.optim.RMSprop` is another algorithm in three places, each of which changes a run: it adds
epsilon after the root, starts the mean of squares at zero, and multiplies the learning rate in
after the momentum, so that a lower one acts on the steps that were gathered before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class TensorFlowRMSprop(torch.optim.Optimizer):
    """For each parameter w with gradient g (weight decay included: g + weight_decay w):

        square   <- decay square + (1 - decay) g^2                  from 1
        momentum <- momentum m + lr g / sqrt(square + eps)          from 0
        w        <- w - momentum

    params: parameters or groups of them; lr, decay, momentum, eps and weight_decay (L2, added to
        the gradient) may differ by group
    Raises ValueError for a value out of range, RuntimeError for sparse gradients.
    Source: TensorFlow's `ApplyRMSProp`, whose documented equations these are, with the initial
    values of its `train.RMSPropOptimizer`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        shares = {"decay": decay, "momentum": momentum}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay, **shares})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step over every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step(group, weights)
        return loss

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if weight.grad is not None and weight.grad.is_sparse:
                raise RuntimeError("TensorFlowRMSprop takes no sparse gradients")
            state = self.state[weight]
            if not state:
                state["square"] = torch.ones_like(weight, memory_format=torch.preserve_format)
                state["momentum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        gradients: Any = [weight.grad for weight in weights]
        squares = [self.state[weight]["square"] for weight in weights]
        momenta = [self.state[weight]["momentum"] for weight in weights]
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["decay"])
        roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_addcdiv_(momenta, gradients, roots, group["lr"])
        torch._foreach_sub_(weights, momenta)
