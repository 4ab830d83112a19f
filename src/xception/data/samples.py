"""Labelled pictures that are not decoded yet, and a data source: its classes and splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from xception.data.decode import decode_picture, picture_size
from xception.data.wording import path_text
from xception.errors import DataError

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "val", "test")


class Samples(ABC):
    """A list of labelled pictures; `load(i)` decodes one.

    Attributes:
        labels: class index of each picture.
        names: what each picture is called in messages; its path, where it has one.
    """

    def __init__(self, labels: Sequence[int], names: Sequence[str]) -> None:
        if len(labels) != len(names):
            raise ValueError(f"{len(labels)} labels do not fit {len(names)} names")
        self.labels = list(labels)
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def load(self, i: int) -> Image.Image:
        """Decode picture `i` to mode RGB; raises PictureError."""

    @abstractmethod
    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels, without decoding; raises PictureError."""

    @abstractmethod
    def select(self, indices: Iterable[int]) -> Samples:
        """The pictures at `indices`, in that order."""


class FileSamples(Samples):
    """Picture files on disk."""

    def __init__(self, labels: Sequence[int], paths: Sequence[str]) -> None:
        super().__init__(labels, paths)
        self.paths = self.names
        if not all(map(str.isascii, paths)):  # a path need not be text that can be printed
            self.names = [path_text(path) for path in paths]

    def load(self, i: int) -> Image.Image:
        return decode_picture(self.paths[i], name=self.names[i])

    def size(self, i: int) -> tuple[int, int]:
        return picture_size(self.paths[i], name=self.names[i])

    def select(self, indices: Iterable[int]) -> FileSamples:
        chosen = list(indices)
        return FileSamples([self.labels[i] for i in chosen], [self.paths[i] for i in chosen])


class ArraySamples(Samples):
    """Pictures held in memory: uint8 array (N, H, W) grey or (N, H, W, 3) RGB."""

    def __init__(self, pictures: np.ndarray, labels: Sequence[int], names: Sequence[str]) -> None:
        super().__init__(labels, names)
        grey_or_rgb = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] == 3)
        if not grey_or_rgb or pictures.dtype.name != "uint8" or len(pictures) != len(labels):
            raise ValueError(
                f"pictures must be uint8 ({len(labels)}, H, W) or ({len(labels)}, H, W, 3), "
                f"got {pictures.dtype} {pictures.shape}"
            )
        self.pictures = pictures

    def load(self, i: int) -> Image.Image:
        picture = Image.fromarray(self.pictures[i])
        return picture if picture.mode == "RGB" else picture.convert("RGB")

    def size(self, i: int) -> tuple[int, int]:
        height, width = self.pictures.shape[1:3]
        return width, height

    def select(self, indices: Iterable[int]) -> ArraySamples:
        chosen = list(indices)
        return ArraySamples(
            self.pictures[chosen], [self.labels[i] for i in chosen], [self.names[i] for i in chosen]
        )


@dataclass
class DataSource:
    """What a data specification stands for once it is opened."""

    name: str  # the specification as it was given, or the data set's name
    classes: list[str]  # class names by index
    splits: dict[str, Samples]  # of "train", "val", "test", those that there are
    ignored: dict[str, int] = field(default_factory=dict)  # files left aside, by their ending
    problems: list[str] = field(default_factory=list)  # what was found wrong while opening
    notes: list[str] = field(default_factory=list)  # what a user may want to know

    def split(self, name: str) -> Samples:
        """The pictures of one split; DataError where there is none."""
        if name not in self.splits:
            have = ", ".join(self.splits)
            raise DataError(f"{self.name} has no split {name!r} (it has: {have})")
        return self.splits[name]

    def evaluation_split(self) -> str:
        """The split that a model is judged on: test, else val, else train."""
        return next(name for name in ("test", "val", "train") if name in self.splits)

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures per class, for each split."""
        result: dict[str, dict[str, int]] = {}
        for split, samples in self.splits.items():
            numbers = [0] * len(self.classes)
            for label in samples.labels:
                numbers[label] += 1
            result[split] = dict(zip(self.classes, numbers, strict=True))
        return result
