"""Pictures of any source through a network: in order, in batches, however many there are.

They are decoded by a few threads while the network works, at most two batches ahead, so a folder of
any size streams through.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from PIL import Image
from torch import Tensor

from xception.data.decode import decode_picture
from xception.data.picture_tensor import fit, normalize, to_tensor
from xception.data.wording import path_text
from xception.errors import PictureError, UsageError
from xception.inference.network import evaluating
from xception.models import Classifier, Preprocessing

if TYPE_CHECKING:
    import numpy as np

    Picture = str | Path | bytes | BinaryIO | np.ndarray | Image.Image

MAX_THREADS = 8
NOT_FINITE = "the network gives no finite numbers for it (its weights or its input overflow)"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as the network takes it, before normalization; or why it cannot be used."""

    name: str  # the path, or "picture 3" (counted from 1) for what has no name
    values: Tensor | None  # uint8 (C, H, W), or None with an error
    error: PictureError | None


def check_batch_size(batch_size: int) -> None:
    """Raises UsageError when it is not positive."""
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")


def forward_batches(
    pictures: Iterable[Picture] | Picture,
    model: Classifier,
    forward: Callable[[Tensor], Tensor],
    width: int,
    batch_size: int,
) -> Iterator[tuple[list[Decoded], Tensor]]:
    """Decoded pictures, and for those without error the rows (n, width) that `forward` gives.

    pictures: whatever `decode_picture` takes, mixed at will; they may be endless
    forward: normalized float32 (N, C, H, W) on the CPU -> (N, width); called in eval mode

    The rows are ordinary tensors on the CPU. A picture whose row is not finite has an error.
    """
    with closing(_decoded_ahead(pictures, model.preprocessing, batch_size)) as pending:
        while batch := list(islice(pending, batch_size)):
            readable = [item.values for item in batch if item.values is not None]
            if not readable:
                yield batch, torch.empty(0, width)
                continue
            with evaluating(model):
                rows = forward(normalize(torch.stack(readable), model.preprocessing)).cpu()
            finite = rows.isfinite().all(dim=1)
            if not finite.all():
                marks = iter(finite.tolist())
                batch = [
                    item if item.values is None or next(marks) else _failed(item.name)
                    for item in batch
                ]
            yield batch, rows[finite]  # which copies: what comes out is no inference tensor


def all_rows(batches: Iterable[tuple[list[Decoded], Tensor]], width: int) -> Tensor:
    """The rows of all batches, (N, width).

    Raises PictureError for the first picture that cannot be used.
    """
    parts: list[Tensor] = []
    for decoded, rows in batches:
        for item in decoded:
            if item.error is not None:
                raise item.error
        parts.append(rows)
    return torch.cat(parts) if parts else torch.empty(0, width)


def picture_count(pictures: Iterable[Picture] | Picture) -> int:
    """How many pictures will come, 0 where that cannot be known before."""
    return length_hint(_each(pictures), 0)


def _decoded_ahead(
    pictures: Iterable[Picture] | Picture, preprocessing: Preprocessing, batch_size: int
) -> Generator[Decoded, None, None]:
    """Decoded pictures in order, at most two batches of them waiting at a time."""
    # half the cores: on a CPU the network's own threads wait for each other when they share
    threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) // 2))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="xception-decode")
    waiting: deque[Future[Decoded]] = deque()
    source = enumerate(_each(pictures), start=1)
    try:
        while True:
            room = 2 * batch_size - len(waiting)
            for number, picture in islice(source, room):
                waiting.append(pool.submit(_decode, picture, number, preprocessing))
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


def _decode(picture: Picture, number: int, p: Preprocessing) -> Decoded:
    name = _name(picture, number)
    try:
        return Decoded(name, to_tensor(fit(decode_picture(picture, name=name), p)), None)
    except PictureError as error:
        return Decoded(name, None, error)


def _failed(name: str) -> Decoded:
    return Decoded(name, None, PictureError(name, NOT_FINITE))


def _name(picture: Picture, number: int) -> str:
    if isinstance(picture, (str, os.PathLike)):
        return path_text(picture)
    for attribute in ("filename", "name"):  # of Pillow's pictures and of open files
        value = getattr(picture, attribute, None)
        if isinstance(value, (str, os.PathLike)) and os.fspath(value):
            return path_text(value)
    return f"picture {number}"
