"""Predictions for pictures of any source, in order, however many there are.

    predictor = Predictor("runs/NAME")
    for prediction in predictor.predict_iter(paths, top_k=3):
        print(prediction.name, prediction.error or prediction.labels[0])

A folder of any size streams through: pictures are decoded at most two batches ahead.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from PIL import Image
from torch import Tensor

from xception.data.decode import decode_picture
from xception.data.picture_tensor import fit, normalize, to_tensor
from xception.data.wording import path_text
from xception.errors import PictureError, UsageError
from xception.inference.network import as_classifier, class_labels, evaluating, logits
from xception.models import Classifier, Preprocessing

if TYPE_CHECKING:
    import numpy as np

    Picture = str | Path | bytes | BinaryIO | np.ndarray | Image.Image

MAX_THREADS = 8
NOT_FINITE = "the network gives no finite numbers for it (its weights or its input overflow)"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of one picture, best first; or why there are none."""

    name: str  # the path, or "picture 3" (counted from 1) for what has no name
    labels: list[str]
    probabilities: list[float]  # of `labels`, 0..1; over all classes they sum to 1
    error: str | None = None  # why the picture cannot be used; then the lists are empty


@dataclass(frozen=True, slots=True)
class _Decoded:
    name: str
    values: Tensor | None  # uint8 (C, H, W), or None with an error
    error: PictureError | None


class Predictor:
    """A classifier with its preprocessing: pictures in, class names and probabilities out.

    model: a model file, a run folder, or a classifier (put into eval mode while it predicts)
    device: torch's name; None leaves a classifier where it is, and loads a file to CUDA if it can
    batch_size: pictures that go through the network at once

    Pictures are whatever `decode_picture` takes, mixed at will. They are decoded by a few threads
    while the network works, at most two batches ahead.

    Raises ModelFileError, UsageError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Classifier,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        self.model = as_classifier(model, device)
        self.batch_size = batch_size
        self.classes = class_labels(self.model)
        # half the cores: on a CPU the network's own threads wait for each other when they share
        self._threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2))

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
        rows: list[Tensor] = []
        for decoded, batch in self._batches(pictures):
            for item in decoded:
                if item.error is not None:
                    raise item.error
            rows.append(batch)
        return torch.cat(rows) if rows else torch.empty(0, len(self.classes))

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
    ) -> Iterator[tuple[list[_Decoded], Tensor]]:
        """Decoded pictures, and the probabilities (n, classes) of those without error."""
        with closing(self._decoded_ahead(pictures)) as pending:
            while batch := list(islice(pending, self.batch_size)):
                readable = [item.values for item in batch if item.values is not None]
                if not readable:
                    yield batch, torch.empty(0, len(self.classes))
                    continue
                probabilities = self._forward(torch.stack(readable))
                finite = probabilities.isfinite().all(dim=1)
                if not finite.all():
                    marks = iter(finite.tolist())
                    batch = [
                        item if item.values is None or next(marks) else _failed(item.name)
                        for item in batch
                    ]
                yield batch, probabilities[finite]

    def _forward(self, values: Tensor) -> Tensor:
        with evaluating(self.model):
            outputs = logits(self.model, normalize(values, self.model.preprocessing))
        return outputs.softmax(dim=1).cpu()

    def _decoded_ahead(
        self, pictures: Iterable[Picture] | Picture
    ) -> Generator[_Decoded, None, None]:
        """Decoded pictures in order, at most two batches of them waiting at a time."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="xception-decode")
        waiting: deque[Future[_Decoded]] = deque()
        source = enumerate(_each(pictures), start=1)
        try:
            while True:
                room = 2 * self.batch_size - len(waiting)
                for number, picture in islice(source, room):
                    waiting.append(pool.submit(_decode, picture, number, self.model.preprocessing))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _each(pictures: Iterable[Picture] | Picture) -> Iterable[Picture]:
    """A picture given by itself counts as a list of one."""
    is_array = hasattr(pictures, "__array_interface__") and getattr(pictures, "ndim", 0) <= 3
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, io.IOBase, Image.Image)
    return [pictures] if isinstance(pictures, kinds) or is_array else pictures  # type: ignore[list-item]


def _decode(picture: Picture, number: int, p: Preprocessing) -> _Decoded:
    name = _name(picture, number)
    try:
        return _Decoded(name, to_tensor(fit(decode_picture(picture, name=name), p)), None)
    except PictureError as error:
        return _Decoded(name, None, error)


def _failed(name: str) -> _Decoded:
    return _Decoded(name, None, PictureError(name, NOT_FINITE))


def _name(picture: Picture, number: int) -> str:
    if isinstance(picture, (str, os.PathLike)):
        return path_text(picture)
    for attribute in ("filename", "name"):  # of Pillow's pictures and of open files
        value = getattr(picture, attribute, None)
        if isinstance(value, (str, os.PathLike)) and os.fspath(value):
            return path_text(value)
    return f"picture {number}"
