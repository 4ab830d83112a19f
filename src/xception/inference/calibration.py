"""The pictures by which int8 is calibrated, and by which it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from xception.errors import UsageError

Item = Tensor | tuple[Tensor, Tensor | int]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Prepared pictures, and their classes where these are known.

    batches: float32 (N, C, H, W) on the CPU, N at least 1
    labels: int64 (pictures,), or None
    """

    batches: list[Tensor]
    labels: Tensor | None

    @property
    def count(self) -> int:
        """Pictures in all."""
        return sum(map(len, self.batches))

    def digest(self) -> str:
        """Of everything in it, 64 hexadecimal digits."""
        sha = hashlib.sha256(repr((self.labels is None, len(self.batches))).encode())
        for part in (*self.batches, *([] if self.labels is None else [self.labels])):
            sha.update(repr(tuple(part.shape)).encode())
            sha.update(part.contiguous().numpy().tobytes())
        return sha.hexdigest()


def read_calibration(
    given: Tensor | Iterable[Item], channels: int, size: tuple[int, int]
) -> Calibration:
    """Bring what the user gives into one form.

    given: a tensor (N, C, H, W); or anything that iterates over tensors (N, C, H, W) or (C, H, W),
        or over pairs of these and their classes, int64 (N,) or an int, as a DataLoader does

    Raises UsageError for other shapes than (channels, *size), or without any picture.
    """
    batches: list[Tensor] = []
    labels: list[Tensor] = []
    for item in [given] if isinstance(given, Tensor) else given:
        is_pair = isinstance(item, (tuple, list)) and len(item) == 2
        x = item[0] if is_pair else item
        if not isinstance(x, Tensor) or x.dim() not in (3, 4) or not x.is_floating_point():
            raise UsageError(
                "calibration must hold float tensors (N, C, H, W) or (C, H, W), or pairs of these "
                f"and their classes, got {_named(x)}"
            )
        x = x.detach().float().cpu()
        x = x if x.dim() == 4 else x[None]
        if tuple(x.shape[1:]) != (channels, *size):
            raise UsageError(
                f"calibration must hold pictures of {channels}x{size[0]}x{size[1]}, got "
                f"{'x'.join(map(str, x.shape[1:]))}"
            )
        if len(x) == 0:
            continue
        batches.append(x)
        if is_pair:
            labels.append(_labels(item[1], len(x)))
    if not batches:
        raise UsageError("calibration has no picture; give some hundred of those that will come")
    if labels and len(labels) != len(batches):
        raise UsageError("calibration has classes for some of its pictures; give all or none")
    return Calibration(batches, torch.cat(labels) if labels else None)


def _labels(given: object, count: int) -> Tensor:
    labels = torch.as_tensor(given).reshape(-1).cpu()
    if labels.is_floating_point() or len(labels) != count:
        raise UsageError(
            f"calibration must give one class, an integer, for each of {count} pictures, got "
            f"{_named(given)}"
        )
    return labels.long()


def _named(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def accuracy_lost(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> float:
    """How much accuracy `outputs` have less than `reference`, 0..1; negative if they have more.

    reference, outputs: logits (N, classes)
    labels: int64 (N,). Without them the reference's own probabilities stand in: a picture whose
        class changes counts as the probability that it loses, so a close call counts little.

    Not finite outputs lose everything.
    """
    if not outputs.isfinite().all():
        return 1.0
    before, after = reference.argmax(dim=1), outputs.argmax(dim=1)
    if labels is not None:
        lost = (before == labels).double().mean() - (after == labels).double().mean()
        return float(lost)
    probabilities = reference.double().softmax(dim=1)
    kept = probabilities.gather(1, after[:, None])[:, 0]
    return float((probabilities.amax(dim=1) - kept).mean())
