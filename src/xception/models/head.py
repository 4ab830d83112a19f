"""The classifier on top: global pooling, optional further layers, dropout, classes."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from xception.models.head_layers import make_head_layers

Pooling = Literal["avg", "max"]


class Head(nn.Module):
    """From the feature map to the classes; `fc` is its last layer with weights.

    x: (N, C, H, W) -> (N, num_classes) logits.

    num_features: channels, or units, that enter `fc`
    A subclass says what `fc` is, and calls `reset` to put it in place.
    """

    num_features: int
    fc: nn.Module

    def reset(self, num_classes: int, like: Tensor | None = None) -> None:
        """Put a fresh last layer for `num_classes` in place (0: none, features come out).

        It gets the device and dtype of `like`, torch's defaults otherwise.
        """
        if num_classes < 0:
            raise ValueError(f"num_classes must not be negative, got {num_classes}")
        fresh = self._make_fc(num_classes) if num_classes else nn.Identity()
        self.fc = fresh if like is None else fresh.to(like.device, like.dtype)

    def _make_fc(self, num_classes: int) -> nn.Module:
        raise NotImplementedError


class GlobalMaxPool2d(nn.AdaptiveMaxPool2d):
    """The largest value of each channel: x (N, C, H, W) -> (N, C, 1, 1).

    Places that share the maximum share its gradient, as in Keras; torch's own layer gives it to one
    of them, and is no core operator of torch.export.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3), keepdim=True)


class ClassifierHead(Head):
    """Global pooling, further layers, dropout, logistic regression.

    x: (N, in_features, H, W) -> (N, num_classes) logits.

    pooling: "avg" or "max", over height and width
    fc_units: units of fully connected layers, each followed by ReLU (the paper's JFT variant has
        two of 4096)
    head_layers: instead of `fc_units`, any layers of `make_head_layers`, in order; they lie in
        `fc_layers`
    dropout: probability of dropping a value before the logistic regression (paper: 0.5 on ImageNet)
    num_classes = 0 leaves the logistic regression out: what enters it comes back.
    Raises ValueError naming the argument. Source: paper Fig. 5 and section 4.3.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        pooling: Pooling = "avg",
        fc_units: Sequence[int] = (),
        head_layers: Sequence[str] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {get_args(Pooling)}, got {pooling!r}")
        if not all(isinstance(units, numbers.Integral) and units > 0 for units in fc_units):
            raise ValueError(f"fc_units must be positive, got {tuple(fc_units)}")
        if fc_units and head_layers:
            raise ValueError(
                "fc_units and head_layers cannot be given together; fc_units=(100,) is the same as "
                "head_layers=('linear 100', 'relu')"
            )
        self.pool = nn.AdaptiveAvgPool2d(1) if pooling == "avg" else GlobalMaxPool2d()
        self.flatten = nn.Flatten(1)
        if fc_units:
            self.fc_layers, self.num_features = _fully_connected(in_features, fc_units)
        else:
            self.fc_layers, self.num_features = make_head_layers(head_layers, in_features)
        self.dropout = make_dropout(dropout)
        self.reset(num_classes)

    def _make_fc(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(self.fc_layers(self.flatten(self.pool(x))))
        return x if pre_logits else self.fc(x)


def make_dropout(dropout: float) -> nn.Dropout:
    """`torch.nn.Dropout`; raises ValueError for a probability below 0, or 1 and above."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
    return nn.Dropout(dropout)


def _fully_connected(features: int, units: Sequence[int]) -> tuple[nn.Sequential, int]:
    layers = nn.Sequential()
    for count in units:
        layers.append(nn.Linear(features, count)).append(nn.ReLU(inplace=True))
        features = count
    return layers, features
