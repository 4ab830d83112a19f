"""Loss and accuracy alone: what a training loop asks for after each epoch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from xception.data.loader import Batch, Loader, evaluation_loader
from xception.data.samples import Samples
from xception.errors import DataError
from xception.inference.network import evaluating, logits
from xception.models import Classifier


def evaluate_loss_and_accuracy(
    model: Classifier, pictures: Samples | Loader, *, batch_size: int = 64, workers: int = 0
) -> tuple[float, float]:
    """Mean cross entropy in nats and accuracy 0..1 over all readable pictures.

    pictures: labelled in the model's own order of classes; a `Loader` keeps its cache and workers
    from one call to the next (batch_size and workers are its own then)

    Raises DataError when no picture could be read.
    """
    if isinstance(pictures, Loader):
        return evaluate_batches(model, pictures.epoch())
    loader = evaluation_loader(pictures, model.preprocessing, batch_size, workers=workers)
    try:
        return evaluate_batches(model, loader.epoch())
    finally:
        loader.close()


def evaluate_batches(model: Classifier, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean cross entropy in nats (no label smoothing) and accuracy 0..1 over `batches`.

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
            if len(batch.y) == 0:
                continue
            outputs, y = logits(model, batch.x), batch.y.to(device)
            losses.append(F.cross_entropy(outputs, y, reduction="sum"))
            correct += (outputs.argmax(dim=1) == y).sum()
            count += len(y)
    if count == 0:
        raise DataError("no picture could be read for evaluation; `xception check` says why")
    for value in losses:
        loss += value.double().cpu()
    return float(loss) / count, int(correct) / count
