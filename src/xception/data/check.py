"""A data set looked through before training: counts, sizes, unreadable files, duplicates."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from xception.data.samples import DataSource, Samples
from xception.data.sources import open_data
from xception.data.wording import listed
from xception.errors import DataError, PictureError

FEW_PICTURES = 10  # of a class in training, below which it is noted
IMBALANCE = 10.0  # largest class / smallest class in training, from which it is noted
_IN_PROCESS = 256  # pictures; fewer are decoded without worker processes
_CHUNK = 32  # pictures a worker takes at a time


@dataclass(frozen=True)
class SizeRange:
    """Sizes of the readable pictures of a split, in pixels: (smallest, median, largest)."""

    width: tuple[int, int, int]
    height: tuple[int, int, int]


@dataclass(frozen=True)
class FoundPicture:
    """Where a picture of the report is."""

    split: str
    name: str
    label: str  # class name


@dataclass(frozen=True)
class UnreadablePicture:
    """A picture that cannot be decoded, and why."""

    split: str
    name: str
    reason: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures whose pixels are exactly equal."""

    pictures: tuple[FoundPicture, ...]
    splits: tuple[str, ...]  # more than one: training pictures leak into a test
    labels: tuple[str, ...]  # more than one: at least one label is wrong


@dataclass
class DataReport:
    """What a check found. `ok` is true where there are no problems; notes do not count."""

    name: str
    classes: list[str]
    counts: dict[str, dict[str, int]]  # pictures by split and class
    sizes: dict[str, SizeRange]  # by split
    unreadable: list[UnreadablePicture]
    duplicates: list[DuplicateGroup]
    missing_classes: dict[str, list[str]]  # classes without pictures, by split
    ignored: dict[str, int]  # files that are no pictures, by their ending
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found that should be put right before training."""
        return not self.problems

    @property
    def total(self) -> int:
        """Pictures in all splits."""
        return sum(sum(by_class.values()) for by_class in self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "ok": self.ok, "total": self.total}


class _Seen(NamedTuple):
    """What decoding one picture tells."""

    position: int
    size: tuple[int, int]
    content: bytes  # hash of the pixels; empty where unreadable
    reason: str


def check_data(
    source: DataSource | str | os.PathLike[str],
    *,
    seed: int = 0,
    val_fraction: float = 0.0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Decode every picture once and report on the data set.

    Args:
        source: an opened source, or what `open_data` takes (then without splitting validation
            pictures off, unless `val_fraction` says so).
        seed: as for `open_data`.
        val_fraction: as for `open_data`.
        workers: processes that decode; by default one a core for more than a few hundred pictures.
        progress: called with pictures done and pictures in all.

    Raises:
        DataError: the source cannot be opened, or a worker process died.
    """
    if not isinstance(source, DataSource):
        source = open_data(source, seed=seed, val_fraction=val_fraction, strict=False)
    seen = _look_through(source.splits, workers, progress)
    unreadable = [
        UnreadablePicture(split, source.splits[split].names[one.position], one.reason)
        for split, pictures in seen.items()
        for one in pictures
        if one.reason
    ]
    counts = source.counts()
    report = DataReport(
        name=source.name,
        classes=list(source.classes),
        counts=counts,
        sizes={split: _sizes(pictures) for split, pictures in seen.items() if _readable(pictures)},
        unreadable=unreadable,
        duplicates=_duplicates(source, seen),
        missing_classes={
            split: [label for label, count in by_class.items() if count == 0]
            for split, by_class in counts.items()
            if not all(by_class.values())
        },
        ignored=dict(source.ignored),
    )
    report.problems = _problems(report) + source.problems
    report.notes = _notes(report) + source.notes
    return report


def _look_through(
    splits: Mapping[str, Samples],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[_Seen]]:
    total = sum(len(samples) for samples in splits.values())
    if workers is None:
        workers = (os.cpu_count() or 1) if total > _IN_PROCESS else 0
    seen: dict[str, list[_Seen]] = {}
    done = 0
    for split, samples in splits.items():
        seen[split] = []
        for chunk in _inspected(samples, workers):
            seen[split].extend(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    return seen


def _inspected(samples: Samples, workers: int) -> Iterator[list[_Seen]]:
    chunks = [
        range(start, min(start + _CHUNK, len(samples))) for start in range(0, len(samples), _CHUNK)
    ]
    if workers < 2:
        for chunk in chunks:
            yield [_inspect(samples, i) for i in chunk]
        return
    has_fork = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if has_fork else None)
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (samples,)) as pool:
            yield from pool.map(_inspect_chunk, chunks)
    except BrokenProcessPool:
        raise DataError(
            "a worker process died while decoding, often for want of memory; check with workers=0"
        ) from None


_samples_of_worker: Samples | None = None


def _start_worker(samples: Samples) -> None:
    global _samples_of_worker
    _samples_of_worker = samples


def _inspect_chunk(chunk: range) -> list[_Seen]:
    assert _samples_of_worker is not None
    return [_inspect(_samples_of_worker, i) for i in chunk]


def _inspect(samples: Samples, i: int) -> _Seen:
    try:
        picture = samples.load(i)
    except PictureError as error:
        return _Seen(i, (0, 0), b"", error.reason)
    content = hashlib.blake2b(picture.tobytes(), digest_size=16)
    content.update(f"{picture.width} x {picture.height}".encode())
    return _Seen(i, picture.size, content.digest(), "")


def _readable(pictures: Sequence[_Seen]) -> list[_Seen]:
    return [one for one in pictures if not one.reason]


def _sizes(pictures: Sequence[_Seen]) -> SizeRange:
    widths, heights = zip(*(one.size for one in _readable(pictures)), strict=True)
    return SizeRange(
        (min(widths), int(statistics.median(widths)), max(widths)),
        (min(heights), int(statistics.median(heights)), max(heights)),
    )


def _duplicates(source: DataSource, seen: Mapping[str, Sequence[_Seen]]) -> list[DuplicateGroup]:
    by_content: dict[bytes, list[FoundPicture]] = {}
    for split, pictures in seen.items():
        samples = source.splits[split]
        for one in _readable(pictures):
            label = source.classes[samples.labels[one.position]]
            found = FoundPicture(split, samples.names[one.position], label)
            by_content.setdefault(one.content, []).append(found)
    return [
        DuplicateGroup(
            tuple(group),
            tuple(dict.fromkeys(picture.split for picture in group)),
            tuple(dict.fromkeys(picture.label for picture in group)),
        )
        for group in by_content.values()
        if len(group) > 1
    ]


def _problems(report: DataReport) -> list[str]:
    problems: list[str] = []
    if report.unreadable:
        names = listed(f"{one.name} ({one.reason})" for one in report.unreadable)
        problems.append(f"{_pictures(len(report.unreadable))} cannot be read: {names}")
    across = [group for group in report.duplicates if len(group.splits) > 1]
    if across:
        problems.append(
            f"{_occur(len(across))} in more than one split: {listed(map(_same, across), 3)}"
        )
    conflicting = [group for group in report.duplicates if len(group.labels) > 1]
    if conflicting:
        problems.append(
            f"{_occur(len(conflicting))} with different labels: "
            f"{listed((_same(g) + ' as ' + ' / '.join(g.labels) for g in conflicting), 3)}"
        )
    return problems


def _notes(report: DataReport) -> list[str]:
    notes: list[str] = []
    within = [g for g in report.duplicates if len(g.splits) == 1 and len(g.labels) == 1]
    if within:
        notes.append(
            f"{_occur(len(within))} more than once in a split: {listed(map(_same, within), 3)}"
        )
    train = {label: n for label, n in report.counts.get("train", {}).items() if n}
    if train:
        largest, smallest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
        if train[largest] >= IMBALANCE * train[smallest]:
            notes.append(
                f"strong imbalance: {largest!r} has {train[largest]} training pictures, "
                f"{smallest!r} has {train[smallest]}"
            )
        few = [f"{label!r} ({n})" for label, n in train.items() if n < FEW_PICTURES]
        if few:
            notes.append(f"classes with fewer than {FEW_PICTURES} training pictures: {listed(few)}")
    if report.ignored:
        by_number = sorted(report.ignored.items(), key=lambda item: -item[1])
        kinds = listed(f"{count} {suffix}" for suffix, count in by_number)
        notes.append(f"files that are no pictures were left aside: {kinds}")
    return notes


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _occur(count: int) -> str:
    return f"{_pictures(count)} {'occurs' if count == 1 else 'occur'}"


def _same(group: DuplicateGroup) -> str:
    return listed((picture.name for picture in group.pictures), 3).replace(", ", " = ")
