"""The one place where batch normalization's settings are checked."""

from __future__ import annotations

import math
from functools import partial

from torch import nn


def batch_norm(bn_eps: float, bn_momentum: float) -> partial[nn.BatchNorm2d]:
    """Makes `torch.nn.BatchNorm2d` for a number of channels, with these settings.

    bn_eps: added to the variance, above 0
    bn_momentum: weight of the new batch in the running statistics, above 0 and at most 1

    Raises ValueError naming the argument.
    """
    if not 0 < bn_eps < math.inf:
        raise ValueError(f"bn_eps must be above 0, got {bn_eps}")
    if not 0 < bn_momentum <= 1:
        raise ValueError(f"bn_momentum must be above 0 and at most 1, got {bn_momentum}")
    return partial(nn.BatchNorm2d, eps=bn_eps, momentum=bn_momentum)
