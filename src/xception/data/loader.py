"""Batches in an order that follows from (seed, epoch), with or without worker processes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from xception.data.dataset import Fetched, PictureDataset, mixed
from xception.data.samples import Samples
from xception.data.transforms import evaluation_transform
from xception.errors import DataError
from xception.models.preprocessing import Preprocessing

Share = Callable[[Sequence[int]], Sequence[int]]

_ORDER = 1  # keeps the order's random numbers apart from those of the pictures


@dataclass(slots=True)
class Batch:
    """Pictures of one step. A batch of unreadable pictures only has N = 0."""

    x: torch.Tensor  # float32 (N, C, H, W), contiguous in channels_last
    y: torch.Tensor  # int64 (N,), class indices
    index: torch.Tensor  # int64 (N,), positions in the data set
    skipped: list[tuple[str, str]]  # name and reason of each unreadable picture
    number: int  # of this batch within the epoch, from 0; resume with start_batch=number + 1

    def __len__(self) -> int:
        return len(self.y)


class Loader:
    """Batches of a data set, epoch after epoch; worker processes stay between epochs.

    Args:
        dataset: the pictures.
        batch_size: pictures a batch; the last may be smaller, and every batch in which a picture
            is unreadable.
        shuffle_seed: order of epoch e follows from (shuffle_seed, e); None keeps the data's order.
        workers: processes that decode; 0 decodes in this one. The batches are the same.
        drop_last: leave out a last batch that is not full.
        share: what this process takes of each batch's positions, where several train together.
        balanced: draw all classes equally often (with `shuffle_seed`); an epoch stays as long as
            it was, so that pictures of rare classes come several times, changed otherwise each
            time, and of frequent ones some wait for a later epoch.
    """

    def __init__(
        self,
        dataset: PictureDataset,
        batch_size: int,
        *,
        shuffle_seed: int | None,
        workers: int = 0,
        drop_last: bool = False,
        share: Share | None = None,
        balanced: bool = False,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise ValueError(
                f"batch_size {batch_size} must be 1 or more, workers {workers} 0 or more"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.workers = workers
        labels = dataset.samples.labels if balanced else None
        self._sampler = _BatchSampler(
            len(dataset), batch_size, shuffle_seed, drop_last, share, labels
        )
        self._loader: DataLoader[Fetched] | None = None

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self._sampler.total

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of an epoch (0-based), from `start_batch` on; what comes before is not decoded.

        Raises:
            DataError: a worker process died.
        """
        self._sampler.epoch, self._sampler.start_batch = epoch, start_batch
        finish = self.dataset.transform.finish
        for number, fetched in enumerate(self._fetched(), start=start_batch):
            x = finish(fetched.values)
            yield Batch(x, fetched.labels, fetched.positions, fetched.skipped, number)

    def close(self) -> None:
        """End the worker processes."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
        self._loader = None

    def _fetched(self) -> Iterator[Fetched]:
        if self.workers == 0:
            for epoch, indices in self._sampler:
                yield self.dataset.fetch(indices, epoch)
            return
        if self._loader is None:
            self._loader = DataLoader(
                _Fetcher(self.dataset),
                batch_size=None,  # an "item" is a whole batch already
                sampler=self._sampler,
                num_workers=self.workers,
                collate_fn=_unchanged,  # type: ignore[arg-type]  # it gets no list: see batch_size
                worker_init_fn=_start_worker,
                generator=torch.Generator(),  # else it draws from the generator of the training
                persistent_workers=True,
                multiprocessing_context="fork" if sys.platform == "linux" else None,
            )
        try:
            yield from _start(self._loader)
        except (RuntimeError, OSError, EOFError) as error:
            # the two last come when a batch's sender has gone before its memory was handed over
            died = not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)
            if not died or str(error).startswith("Caught "):  # an error of a transform, say
                raise
            self.close()
            raise DataError(
                f"a data worker process died ({_first_line(error)}), often for want of memory; "
                "use fewer workers, or 0"
            ) from None


def batches(
    dataset: PictureDataset,
    batch_size: int,
    *,
    shuffle_seed: int | None,
    epoch: int = 0,
    start_batch: int = 0,
    workers: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Batches of one epoch; see `Loader`, which keeps its workers for the next."""
    loader = Loader(
        dataset, batch_size, shuffle_seed=shuffle_seed, workers=workers, drop_last=drop_last
    )
    try:
        yield from loader.epoch(epoch, start_batch)
    finally:
        loader.close()


def evaluation_loader(
    samples: Samples,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    workers: int = 0,
    cache: str = "none",
    share: Share | None = None,
) -> Loader:
    """Every picture exactly once, in the data's order, without random changes."""
    dataset = PictureDataset(samples, evaluation_transform(preprocessing), cache=cache)
    return Loader(dataset, batch_size, shuffle_seed=None, workers=workers, share=share)


class _BatchSampler(Sampler[Any]):
    """Yields (epoch, indices), so that workers that live on learn which epoch it is."""

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int | None,
        drop_last: bool,
        share: Share | None,
        labels: Sequence[int] | None,
    ) -> None:
        self.share, self.labels = share, labels
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.total = count // batch_size if drop_last else -(-count // batch_size)
        self.epoch = 0
        self.start_batch = 0

    def __len__(self) -> int:
        return max(0, self.total - self.start_batch)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        epoch, start = self.epoch, self.start_batch
        if self.labels is not None and self.seed is not None:
            order = _balanced_order(self.labels, self.seed, epoch)
        else:
            order = _order(self.count, self.seed, epoch)
        for number in range(start, self.total):
            first = number * self.batch_size
            indices = order[first : first + self.batch_size].tolist()
            yield epoch, indices if self.share is None else list(self.share(indices))


def _order(count: int, seed: int | None, epoch: int) -> torch.Tensor:
    if seed is None:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(mixed(seed, epoch, _ORDER))
    return torch.randperm(count, generator=generator)


def _balanced_order(labels: Sequence[int], seed: int, epoch: int) -> torch.Tensor:
    """Places in the data, of all classes equally often; repeated ones as in `PictureDataset.fetch`.

    Through the epochs every picture of a class comes as often as the others of it, but for one.
    """
    places = torch.tensor(labels)
    total = len(labels)
    counts = places.bincount()
    sizes: list[int] = counts[counts > 0].tolist()
    by_class = torch.split(places.argsort(stable=True), sizes)
    drawn = []
    for number, own in enumerate(by_class):
        # So many of this class in each epoch: the remainder goes round the classes.
        first, last = ((total * e + number) // len(by_class) for e in (epoch, epoch + 1))
        if first == last:
            continue
        rounds = []
        for turn in range(first // len(own), (last - 1) // len(own) + 1):
            generator = torch.Generator().manual_seed(mixed(seed, number, turn, _ORDER))
            rounds.append(own[torch.randperm(len(own), generator=generator)] + turn * total)
        begin = first // len(own) * len(own)
        drawn.append(torch.cat(rounds)[first - begin : last - begin])
    order = torch.cat(drawn)
    generator = torch.Generator().manual_seed(mixed(seed, epoch, _ORDER))
    return order[torch.randperm(len(order), generator=generator)]


def _start(loader: DataLoader[Fetched]) -> Iterator[Fetched]:
    """Start an epoch so that a worker's death shows where its batch is waited for.

    torch sets a handler of SIGCHLD that raises at whatever line of the training is running then;
    without it a death is noticed by asking, within five seconds.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
    return iterator


class _Fetcher(Dataset[Fetched]):
    """What runs in a worker."""

    def __init__(self, dataset: PictureDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, list[int]]) -> Fetched:
        epoch, indices = key
        return self.dataset.fetch(indices, epoch)


def _unchanged(fetched: Fetched) -> Fetched:
    return fetched


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
