"""From a list of (path, class, split) to a data source: class order, splits, and what is wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from xception.data.samples import SPLITS, DataSource, FileSamples, Samples
from xception.data.split import validation_indices
from xception.data.wording import listed
from xception.errors import DataError

SPLIT_NAMES = {  # what users call a split -> what it is here
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


class ListedPicture(NamedTuple):
    """One line of a listing."""

    path: str  # by which the file is opened
    label: str  # class name
    split: str | None  # "train", "val", "test", or None where the data do not say
    key: str  # path within the data set, with "/": decides the split by seed


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a data source is to be opened; see `open_data`."""

    seed: int = 0
    val_fraction: float = 0.1
    classes: Sequence[str] | None = None
    split_of: Mapping[str, str] | None = None  # split by key, from a split file
    strict: bool = True  # False: what keeps a classifier from being trained becomes a problem


@dataclass
class Listing:
    """Every picture of a folder or table, and what was met on the way."""

    name: str
    pictures: list[ListedPicture] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts "class 2" before "class 10"; letters by code point."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], text


def same_text(text: str) -> str:
    """One spelling for names that look the same (macOS stores accents as separate characters)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def source_from_listing(listing: Listing, opening: Opening) -> DataSource:
    """Order the classes, form the splits, and split validation off where there is none.

    Raises:
        DataError: fewer than two classes, a class that `opening.classes` does not know, a class
            that has no training pictures (if strict), a split file that does not fit.
    """
    problems = list(listing.problems)
    notes = list(listing.notes)
    pictures = listing.pictures
    if opening.split_of is not None:
        pictures = _by_split_file(listing, opening.split_of, notes)
    by_split: dict[str, list[ListedPicture]] = {}
    for picture in pictures:
        by_split.setdefault(picture.split or "train", []).append(picture)
    classes = _classes(listing.name, by_split, opening)
    _compare_splits(listing.name, by_split, classes, opening, problems)
    index = {label: i for i, label in enumerate(classes)}
    splits: dict[str, Samples] = {}
    keys: list[str] = []
    for split in SPLITS:
        if split in by_split:
            members = sorted(by_split[split], key=lambda p: (p.key, p.path))
            labels = [index[p.label] for p in members]
            splits[split] = FileSamples(labels, [p.path for p in members])
            if split == "train":
                keys = [p.key for p in members]
    splits = split_off_validation(splits, keys, opening)
    return DataSource(listing.name, classes, splits, dict(listing.ignored), problems, notes)


def split_off_validation(
    splits: Mapping[str, Samples], keys: Sequence[str], opening: Opening
) -> dict[str, Samples]:
    """Add "val", taken from "train" by seed, where there is none; `keys` are the train pictures'.

    Nothing is taken where a validation part of 0 was asked for or there is no training split.
    """
    result = dict(splits)
    if "train" in splits and "val" not in splits:
        train = splits["train"]
        val = validation_indices(
            train.labels, keys, fraction=opening.val_fraction, seed=opening.seed
        )
        if val:
            kept = set(val)
            result["train"] = train.select(i for i in range(len(train)) if i not in kept)
            result["val"] = train.select(val)
    return {name: result[name] for name in SPLITS if name in result}


def _by_split_file(
    listing: Listing, split_of: Mapping[str, str], notes: list[str]
) -> list[ListedPicture]:
    known = {picture.key for picture in listing.pictures}
    missing = [key for key in split_of if key not in known]
    if missing:
        raise DataError(
            f"{listing.name}: the split file names {len(missing)} pictures that are not there: "
            f"{listed(missing)}; paths in it are relative to the data's folder"
        )
    kept = [p._replace(split=split_of[p.key]) for p in listing.pictures if p.key in split_of]
    left_out = len(listing.pictures) - len(kept)
    if left_out:
        notes.append(f"{left_out} pictures are not in the split file and are left out")
    if not kept:
        raise DataError(f"{listing.name}: the split file names no picture")
    return kept


def _classes(
    name: str, by_split: Mapping[str, Sequence[ListedPicture]], opening: Opening
) -> list[str]:
    found = {picture.label for pictures in by_split.values() for picture in pictures}
    if opening.classes is not None:
        classes = [same_text(label) for label in opening.classes]
        unknown = sorted(found - set(classes), key=natural_key)
        if unknown:
            raise DataError(
                f"{name}: has classes that the model does not know: {listed(map(repr, unknown))} "
                f"(it knows: {listed(map(repr, classes))}); use data with the model's classes"
            )
        return classes
    if len(found) < 2:
        only = f"only one class ({next(iter(found))!r})" if found else "no classes"
        raise DataError(f"{name}: has {only}; a classifier needs pictures of at least two")
    return sorted(found, key=natural_key)


def _compare_splits(
    name: str,
    by_split: Mapping[str, Sequence[ListedPicture]],
    classes: Sequence[str],
    opening: Opening,
    problems: list[str],
) -> None:
    """Note the classes that a split lacks; a class that cannot be learned is an error."""
    present = {split: {p.label for p in pictures} for split, pictures in by_split.items()}
    for split in SPLITS:
        if split not in present or (opening.classes is not None and split != "train"):
            continue
        missing = [label for label in classes if label not in present[split]]
        if not missing:
            continue
        message = f"split {split!r} has no pictures of {listed(map(repr, missing))}"
        if split == "train" and opening.strict and opening.classes is None:
            where = [s for s in SPLITS if s in present and missing[0] in present[s]]
            raise DataError(
                f"{name}: {message}, which {' and '.join(where)} has; add training pictures of "
                "every class, or take the class out (spelling and capitals count)"
            )
        problems.append(message)
