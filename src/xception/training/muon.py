"""Muon: momentum whose step has, for every weight matrix, singular values of about 1.

torch's own `torch.optim.Muon` takes two-dimensional parameters alone and orthogonalizes in
bfloat16, which processors without such arithmetic emulate. Here the filters of a convolution are
the rows of a matrix, in float32, and what is no matrix is trained by AdamW in the same optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration (Jordan et al. 2024)
_ITERATIONS = 5
_RMS_OF_ADAMW = 0.2  # root mean square of AdamW's updates (Liu et al. 2025, section 2.2)


class Muon(torch.optim.Optimizer):
    """Muon for groups with `matrix=True`, AdamW for the others, under one learning rate.

    params: groups of parameters. A parameter of a matrix group has two axes or more and is read as
        (rows, everything else). Options of a group: lr, weight_decay (decoupled), matrix
    momentum: of Muon, in Nesterov's form; betas, eps: AdamW's

    Muon's step is scaled by 0.2 sqrt(max(rows, columns)), so that a learning rate that suits AdamW
    suits it, too. Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
    networks"; Liu et al. 2025, arXiv 2502.16982; for the rest Loshchilov and Hutter 2019.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "matrix": False,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["matrix"] and parameter.dim() < 2:
                    raise ValueError(f"a matrix has two axes or more, got {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._muon if group["matrix"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, self.state[parameter], group)
        return loss

    def _muon(
        self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        average: Tensor = state["momentum"]
        average.lerp_(grad, 1.0 - group["momentum"])
        direction = orthogonalized(grad.lerp(average, group["momentum"]).flatten(1))
        scale = _RMS_OF_ADAMW * max(direction.shape) ** 0.5
        parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * scale)

    def _adamw(
        self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state["step"] = torch.tensor(0.0)  # a tensor, as torch's own keep it
            state["mean"] = torch.zeros_like(grad)
            state["square"] = torch.zeros_like(grad)
        state["step"] += 1
        step = state["step"].item()
        beta1, beta2 = group["betas"]
        mean: Tensor = state["mean"]
        square: Tensor = state["square"]
        mean.lerp_(grad, 1.0 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        root = square.sqrt().div_((1.0 - beta2**step) ** 0.5).add_(group["eps"])
        parameter.addcdiv_(mean, root, value=-group["lr"] / (1.0 - beta1**step))


def orthogonalized(matrix: Tensor) -> Tensor:
    """The matrix with singular values brought near 1 (about 0.7 to 1.2), its directions kept.

    matrix: (rows, columns), any floating dtype; worked on in float32. Source: Jordan et al. 2024.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.float()
    x = x / (x.norm() + 1e-7)  # the iteration wants no singular value above 1
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:  # the smaller of the two Gram matrices
        x = x.T
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)
