"""Predictions for pictures of any source, in order, however many there are.

    predictor = Predictor("runs/NAME")
    for prediction in predictor.predict_iter(paths, top_k=3):
        print(prediction.name, prediction.error or prediction.labels[0])

A folder of any size streams through: pictures are decoded at most two batches ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xception.errors import UsageError
from xception.inference.batches import (
    Decoded,
    all_rows,
    check_batch_size,
    forward_batches,
    picture_count,
)
from xception.inference.network import check_classes, class_labels
from xception.inference.runner import AnyModel, Runner
from xception.inference.runtimes import Road, RuntimeChoice

if TYPE_CHECKING:
    from xception.inference.batches import Picture


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of one picture, best first; or why there are none."""

    name: str  # the path, or "picture 3" (counted from 1) for what has no name
    labels: list[str]
    probabilities: list[float]  # of `labels`, 0..1; over all classes they sum to 1
    error: str | None = None  # why the picture cannot be used; then the lists are empty


class Predictor:
    """A classifier with its preprocessing: pictures in, class names and probabilities out.

    model: a model file, a run folder, a classifier (put into eval mode while it predicts), or what
        `optimize` has returned
    device: torch's name; None leaves a classifier where it is, and loads a file to CUDA if it can
    batch_size: pictures that go through the network at once
    runtime: what runs the network, see `Runner`
    on_road: called once, after the first batch, with what has run it

    Pictures are whatever `decode_picture` takes, mixed at will. They are decoded by a few threads
    while the network works, at most two batches ahead.

    Raises ModelFileError, UsageError; XceptionError where `runtime` is not installed.
    """

    def __init__(
        self,
        model: AnyModel,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        runtime: RuntimeChoice | None = None,
        on_road: Callable[[Road], None] | None = None,
    ) -> None:
        check_batch_size(batch_size)
        self._runner = Runner(model, device=device, runtime=runtime, on_road=on_road)
        self.model = self._runner.network
        check_classes(self.model)
        self.batch_size = batch_size
        self.classes = class_labels(self.model)

    @property
    def road(self) -> Road:
        """What has run the last batch, or would run one now."""
        return self._runner.road

    def predict(self, pictures: Iterable[Picture] | Picture, top_k: int = 5) -> list[Prediction]:
        """One prediction a picture, in order; see `predict_iter`."""
        return list(self.predict_iter(pictures, top_k))

    def predict_iter(
        self, pictures: Iterable[Picture] | Picture, top_k: int = 5
    ) -> Iterator[Prediction]:
        """Predictions one after the other, in the order of `pictures`, which may be endless.

        top_k: classes a prediction, at most all of them
        A picture that cannot be used gives a prediction with `error`; the rest go on.
        """
        if top_k < 1:
            raise UsageError(f"top_k must be at least 1, got {top_k}")
        return self._predictions(pictures, min(top_k, len(self.classes)))

    def probabilities(self, pictures: Iterable[Picture] | Picture) -> Tensor:
        """Probabilities of all classes, float32 (N, classes) on the CPU.

        Raises PictureError for the first picture that cannot be used.
        """
        return all_rows(self._batches(pictures), len(self.classes))

    def _predictions(
        self, pictures: Iterable[Picture] | Picture, top_k: int
    ) -> Iterator[Prediction]:
        for decoded, batch in self._batches(pictures):
            values, indices = batch.topk(top_k)
            rows = iter(zip(values.tolist(), indices.tolist(), strict=True))
            for item in decoded:
                if item.error is not None:
                    yield Prediction(item.name, [], [], item.error.reason)
                    continue
                probabilities, best = next(rows)
                yield Prediction(item.name, [self.classes[i] for i in best], probabilities)

    def _batches(
        self, pictures: Iterable[Picture] | Picture
    ) -> Iterator[tuple[list[Decoded], Tensor]]:
        """Decoded pictures, and the probabilities (n, classes) of those without error."""
        self._runner.prepare(picture_count(pictures))
        return forward_batches(
            pictures, self.model, self._forward, len(self.classes), self.batch_size
        )

    def _forward(self, x: Tensor) -> Tensor:
        return self._runner(x).softmax(dim=1)
