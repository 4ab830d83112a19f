"""One step: a share of a batch forward and backward, the sum over processes, the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from xception.training.gradients import GradientExchange
from xception.training.recipe import Recipe
from xception.training.runtime import Runtime


class Step:
    """Trains `network` on one batch at a time.

    network: what is called; its parameters are those of `optimizer`
    loss_function: (logits, labels) -> the mean over pictures

    A share's pictures are computed in `recipe.accumulate` parts, one after the other, each with
    batch statistics of its own. What is minimized is the mean over the pictures of all parts and
    processes, whatever their shares.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        recipe: Recipe,
        runtime: Runtime,
    ) -> None:
        self._network = network
        self._optimizer = optimizer
        self._loss_function = loss_function
        self._recipe = recipe
        self._runtime = runtime
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        several = runtime.processes.are_several
        trained = [p for p in network.parameters() if p.requires_grad]
        self._exchange = GradientExchange(trained) if several else None

    def usable(self, pictures: int) -> int:
        """Pictures of a share that count: batch normalization cannot do with one of its own."""
        return pictures if pictures >= 2 or self._runtime.has_common_statistics else 0

    def __call__(self, x: Tensor, y: Tensor, pictures: int) -> tuple[Tensor, Tensor]:
        """The summed loss and the number of right answers of this share, before the step.

        x, y: the share's usable pictures, maybe none; pictures: of all shares together, 1 or more
        """
        self._optimizer.zero_grad(set_to_none=True)
        losses, correct = x.new_zeros(()), y.new_zeros(())
        parts = self._parts(len(y), pictures)
        for number in range(1, parts + 1):
            first, last = len(y) * (number - 1) // parts, len(y) * number // parts
            is_whole = number == parts and self._exchange is not None
            with self._exchange.summing() if is_whole and self._exchange else nullcontext():
                loss, logits = self._forward(x[first:last], y[first:last])
                self._backward(loss, (last - first) / pictures)
            losses = losses + loss.detach() * (last - first)
            correct = correct + (logits.detach().argmax(1) == y[first:last]).sum()
        if parts == 0 and self._exchange is not None:
            if self._runtime.scaler is not None:
                self._runtime.scaler.scale(losses)  # which makes it ready to step
            with self._exchange.summing():
                pass
        self._update()
        return losses, correct

    def _parts(self, own: int, pictures: int) -> int:
        """Of two pictures at least, where a part is normalized by itself."""
        if self._runtime.has_common_statistics:  # exchanged by all processes equally often
            own = max(2, pictures // self._runtime.processes.count)
        return min(self._recipe.accumulate, own // 2)

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with self._runtime.autocast():
            logits = self._network(x)
            if len(y) == 0:
                return logits.float().sum(), logits  # of nothing: zero, but with a way back
            logits = logits if logits.dtype == torch.float64 else logits.float()
            return self._loss_function(logits, y), logits

    def _backward(self, loss: Tensor, share: float) -> None:
        scaler = self._runtime.scaler
        weighted = loss if share == 1 else loss * share
        (weighted if scaler is None else scaler.scale(weighted)).backward()  # type: ignore[no-untyped-call]

    def _update(self) -> None:
        scaler, clip_norm = self._runtime.scaler, self._recipe.clip_norm
        if clip_norm > 0:
            if scaler is not None:
                scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, clip_norm)
        if scaler is None:
            self._optimizer.step()
        else:
            scaler.step(self._optimizer)
            scaler.update()
