"""Loss and accuracy alone: what a training loop asks for after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.nn import functional as F

from xception.data.loader import Batch
from xception.errors import DataError
from xception.inference.network import evaluating, logits
from xception.models import Classifier


def evaluate_batches(
    model: Classifier,
    batches: Iterable[Batch],
    on_skipped: Callable[[Iterable[tuple[str, str]]], None] | None = None,
    sums: Callable[..., list[float]] | None = None,
) -> tuple[float, float]:
    """Mean cross entropy in nats (no label smoothing) and accuracy 0..1 over `batches`.

    batches: labelled pictures in the model's own order of classes
    on_skipped: is given name and reason of the unreadable pictures of each batch
    sums: of values over all processes that evaluate shares of the same batches

    Runs in eval mode on the model's device; the model's mode comes back afterwards. Raises
    DataError when there is no picture in them.
    """
    device = next(model.parameters()).device
    loss = torch.zeros((), dtype=torch.float64)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    losses: list[torch.Tensor] = []  # read at the end: each reading waits for the device
    count = 0
    with evaluating(model):
        for batch in batches:
            if on_skipped is not None:
                on_skipped(batch.skipped)
            if len(batch.y) == 0:
                continue
            outputs, y = logits(model, batch.x), batch.y.to(device)
            losses.append(F.cross_entropy(outputs, y, reduction="sum"))
            correct += (outputs.argmax(dim=1) == y).sum()
            count += len(y)
    for value in losses:
        loss += value.double().cpu()
    totals = [float(loss), float(correct), float(count)]
    whole_loss, right, pictures = totals if sums is None else sums(*totals)
    if pictures == 0:
        raise DataError("no picture could be read for evaluation; `xception check` says why")
    return whole_loss / pictures, right / pictures
