"""Samples and a transform as a map-style data set whose randomness can be repeated."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from xception.data.cache import AUTO_BYTES, PictureCache, sampled_indices
from xception.data.picture_tensor import to_tensor
from xception.data.samples import Samples
from xception.data.transforms import EvaluationTransform
from xception.errors import DataError, PictureError

CACHES = ("auto", "ram", "none")
_MASK = 2**64 - 1


class Fetched(NamedTuple):
    """Pictures of one batch before `finish`; the unreadable ones are left out."""

    values: torch.Tensor  # (N, C, H, W), channels_last; uint8, or float32 of a plain transform
    labels: torch.Tensor  # int64 (N,)
    positions: torch.Tensor  # int64 (N,), in the data set
    skipped: list[tuple[str, str]]  # name and reason of each unreadable picture


class PictureDataset(Dataset[Any]):
    """Labelled pictures as tensors.

    What is random in item `i` follows from `(seed, epoch, i)` alone: torch's default generator is
    seeded for each item and put back afterwards, so any number of workers gives the same pictures.

    Args:
        samples: the pictures.
        transform: `train_transform(...)`, `evaluation_transform(...)`, or any callable from an RGB
            picture to a tensor (C, H, W).
        seed: of the random changes.
        cache: "auto" keeps the prepared pictures (uint8, C x H x W bytes each) in memory if all
            need at most 1 GiB, "ram" keeps them whatever they need, "none" decodes each time. The
            memory fills as pictures are first used, or at once by `fill_cache`; forked workers
            share it. Filling costs one decoding, later uses about 5 microseconds a picture.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Callable[[Image.Image], torch.Tensor],
        *,
        seed: int = 0,
        cache: str = "auto",
    ) -> None:
        if cache not in CACHES:
            raise ValueError(f"cache must be one of {', '.join(CACHES)}, got {cache!r}")
        self.samples = samples
        self.seed = seed
        self.epoch = 0
        self.transform: Any = (
            transform if isinstance(transform, EvaluationTransform) else _Plain(transform)
        )
        self._cache = self._make_cache(cache)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def is_cached(self) -> bool:
        """True when prepared pictures are kept in memory."""
        return self._cache is not None

    def set_epoch(self, epoch: int) -> None:
        """The epoch (0-based) whose random changes `dataset[i]` shows."""
        self.epoch = epoch

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int] | tuple[None, int, int, str]:
        """Item `i`: (float32 (C, H, W), label, i), or (None, label, i, reason) if unreadable."""
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        fetched = self.fetch([i])
        label = self.samples.labels[i]
        if fetched.skipped:
            return None, label, i, fetched.skipped[0][1]
        return self.transform.finish(fetched.values[0]), label, i

    def fetch(self, indices: Sequence[int], epoch: int | None = None) -> Fetched:
        """Several items at once, before `transform.finish`.

        indices: places in the data; k lengths of the data further on lies the same picture, changed
            otherwise by what is random
        """
        epoch = self.epoch if epoch is None else epoch
        transform, labels = self.transform, self.samples.labels
        values: list[torch.Tensor] = []
        kept: list[int] = []
        skipped: list[tuple[str, str]] = []
        generator = torch.default_generator
        state = generator.get_state() if transform.is_random else None
        try:
            for index in indices:
                i = index % len(self)
                try:
                    prepared = self._prepared(i)
                except PictureError as error:
                    skipped.append((error.name, error.reason))
                    continue
                if state is not None:
                    generator.manual_seed(mixed(self.seed, epoch, index))
                values.append(transform.augment(prepared))
                kept.append(i)
        finally:
            if state is not None:
                generator.set_state(state)
        batch = _stack(values, transform)
        chosen = torch.tensor([labels[i] for i in kept], dtype=torch.int64)
        return Fetched(batch, chosen, torch.tensor(kept, dtype=torch.int64), skipped)

    def fill_cache(
        self, progress: Callable[[int, int], None] | None = None
    ) -> list[tuple[str, str]]:
        """Decode everything now; `progress(done, total)` is called after each picture.

        Returns the name and reason of each unreadable picture. Does nothing without a cache.
        """
        skipped: list[tuple[str, str]] = []
        if self._cache is None:
            return skipped
        for i in range(len(self)):
            try:
                self._prepared(i)
            except PictureError as error:
                skipped.append((error.name, error.reason))
            if progress is not None:
                progress(i + 1, len(self))
        return skipped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}  # memory is shared by forking only

    def _prepared(self, i: int) -> torch.Tensor:
        cache = self._cache
        if cache is None:
            return self.transform.prepare(self.samples.load(i))
        values = cache.get(i)
        if values is None:
            values = self.transform.prepare(self.samples.load(i))
            cache.put(i, values)
        return values

    def _make_cache(self, kind: str) -> PictureCache | None:
        if kind == "none" or "fork" not in multiprocessing.get_all_start_methods():
            return None
        count, channels = len(self.samples), self.transform.channels
        if self.transform.prepared_size is not None:
            height, width = self.transform.prepared_size
            needed = count * channels * height * width
        else:
            asked = range(count) if kind == "ram" else sampled_indices(count)
            sizes = [self._area(i) for i in asked]
            needed = channels * sum(sizes) * count // max(1, len(sizes))
            if kind == "auto" and needed <= AUTO_BYTES:
                needed = min(AUTO_BYTES, 2 * needed)  # a guess; memory is taken only as it fills
        if kind == "auto" and needed > AUTO_BYTES:
            return None
        try:
            return PictureCache(count, channels, needed)
        except (OSError, OverflowError) as error:
            if kind == "auto":
                return None
            raise DataError(
                f"{needed / 2**30:.1f} GiB of memory for decoded pictures cannot be had ({error}); "
                'use cache "none"'
            ) from None

    def _area(self, i: int) -> int:
        try:
            width, height = self.samples.size(i)
        except PictureError:
            return 0
        return width * height


class _Plain:
    """Any callable from picture to tensor in the three stages of our transforms."""

    is_random = True
    channels = 3
    prepared_size = None
    output_size = None

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self._transform = transform

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        return to_tensor(picture)

    def augment(self, values: torch.Tensor) -> torch.Tensor:
        rows = values.permute(1, 2, 0).contiguous()
        return self._transform(Image.fromarray(rows.numpy()))

    def finish(self, values: torch.Tensor) -> torch.Tensor:
        return values


def mixed(*numbers: int) -> int:
    """A 63-bit seed from several integers that has no pattern (splitmix64 on each in turn)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + (number & _MASK) * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def _stack(values: Sequence[torch.Tensor], transform: Any) -> torch.Tensor:
    if not values:
        height, width = transform.output_size or (0, 0)
        return torch.empty((0, transform.channels, height, width), dtype=torch.uint8)
    first = values[0]
    shape = (len(values), *first.shape)
    layout = torch.channels_last if first.dim() == 3 else torch.contiguous_format
    batch = torch.empty(shape, dtype=first.dtype, memory_format=layout)
    try:
        for row, value in zip(batch, values, strict=True):
            row.copy_(value)
    except RuntimeError:
        shapes = sorted({tuple(value.shape) for value in values})
        raise DataError(
            f"the transform gives pictures of different shapes, {shapes[:3]}; make it crop or "
            "resize to one size"
        ) from None
    return batch
