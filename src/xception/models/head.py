"""The classifier on top: global average pool, optional fully connected layers, dropout, classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class ClassifierHead(nn.Module):
    """x: (N, in_features, H, W) -> (N, num_classes) logits.

    fc_units: units of the optional fully connected layers, each followed by ReLU (the paper's JFT
        variant has two of 4096)
    dropout: probability of dropping a value before the logistic regression (paper: 0.5 on ImageNet)
    num_classes = 0 leaves the logistic regression out: pooled features come back.
    Source: paper Fig. 5 and section 4.3.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        fc_units: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        if any(units < 1 for units in fc_units):
            raise ValueError(f"fc_units must be positive, got {tuple(fc_units)}")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        widths = [in_features, *fc_units]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.fc_layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.num_features = widths[-1]
        self.reset(num_classes)

    def reset(self, num_classes: int, like: Tensor | None = None) -> None:
        """Put a fresh logistic regression for `num_classes` in place (0: none).

        It gets the device and dtype of `like`, torch's defaults otherwise.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes must not be negative, got {num_classes}")
        fresh = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.fc = fresh if like is None else fresh.to(like.device, like.dtype)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(self.fc_layers(self.flatten(self.pool(x))))
        return x if pre_logits else self.fc(x)
