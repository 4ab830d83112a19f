"""What a recipe minimizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xception.training.recipe import Recipe


class ClassificationLoss(nn.Module):
    """Cross entropy in nats, the mean over pictures, each times the weight of its class.

    logits: float (N, classes); labels: int64 (N,), N at least 1
    class_weights: (classes,), or None: 1 for all. `torch.nn.CrossEntropyLoss` would divide by the
        weights of the batch; so a part of a batch would count otherwise than within it.
    """

    def __init__(self, class_weights: Tensor | None, label_smoothing: float) -> None:
        super().__init__()
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction="none"
        )
        return (losses * self.class_weights.to(losses.dtype)[labels]).mean()


def make_loss(recipe: Recipe, labels: Sequence[int], classes: int) -> ClassificationLoss:
    """The recipe's loss for training pictures of these labels."""
    weights = balanced_weights(labels, classes) if recipe.class_weights == "balanced" else None
    return ClassificationLoss(weights, recipe.label_smoothing)


def balanced_weights(labels: Sequence[int], classes: int) -> Tensor:
    """(classes,): by them each class counts as much as any other, a picture 1 in the mean.

    A class without pictures gets 0. The formula is scikit-learn's "balanced", over the classes that
    there are.
    """
    counts = torch.bincount(torch.tensor(labels), minlength=classes).double()
    present = int((counts > 0).sum())
    weights = counts.sum() / (present * counts)
    return torch.where(counts > 0, weights, torch.zeros(())).float()
