"""A folder of class folders, with or without train/, val/ and test/ above them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from xception.data.decode import PICTURE_SUFFIXES
from xception.data.listing import SPLIT_NAMES, ListedPicture, Listing, same_text
from xception.data.wording import listed, path_text
from xception.errors import DataError

_NOT_CLASSES = frozenset({"__MACOSX", "lost+found", "System Volume Information"})


def list_folder(root: Path) -> Listing:
    """List every picture below `root`.

    Layouts: `root/CLASS/**/picture`, or `root/SPLIT/CLASS/**/picture` with SPLIT one of train, val
    (valid, validation, dev) and test. Hidden files are passed over; files whose ending is not a
    picture's are counted. Links are followed, each folder once, so a loop of links ends.

    Raises:
        DataError: the folder cannot be read, is empty, or holds pictures without class folders.
    """
    listing = Listing(name=path_text(root))
    folders, loose = _children(root, listing)
    if not folders and not loose:
        raise DataError(f"{listing.name}: {_no_pictures(listing)}")
    splits = _split_folders(folders, listing)
    if splits:
        for split, folder in splits.items():
            class_folders, loose_here = _children(folder, listing)
            if loose_here and not class_folders:
                raise DataError(f"{path_text(folder)}: {_no_class_folders(loose_here)}")
            _note_loose(folder, loose_here, listing)
            for class_folder in class_folders:
                _add_class(root, class_folder, split, listing)
    elif not folders:
        raise DataError(f"{listing.name}: {_no_class_folders(loose)}")
    else:
        _note_loose(root, loose, listing)
        for folder in folders:
            _add_class(root, folder, None, listing)
        _refuse_nested_data_set(root, folders, listing)
    if not listing.pictures:
        raise DataError(f"{listing.name}: {_no_pictures(listing)}")
    return listing


def _children(folder: Path, listing: Listing) -> tuple[list[Path], list[str]]:
    """Subfolders, and names of pictures, directly in a folder; other files are counted."""
    folders: list[Path] = []
    pictures: list[str] = []
    for entry in _scan(folder):
        if _is_folder(entry):
            folders.append(Path(entry.path))
        elif _is_picture(entry, listing):
            pictures.append(entry.name)
    return folders, pictures


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries of a folder that are not hidden, by name."""
    try:
        with os.scandir(folder) as entries:
            found = [
                e for e in entries if not e.name.startswith(".") and e.name not in _NOT_CLASSES
            ]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path_text(folder)}: the folder cannot be read ({reason})") from None
    return sorted(found, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _is_picture(entry: os.DirEntry[str], listing: Listing) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in PICTURE_SUFFIXES:
        return True  # even if it is a broken link: the check names it
    key = path_text(suffix) if suffix else "without ending"
    listing.ignored[key] = listing.ignored.get(key, 0) + 1
    return False


def _split_folders(folders: list[Path], listing: Listing) -> dict[str, Path]:
    """The folders that are splits; none where the names are classes that happen to be so called."""
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    others = [folder for folder in folders if folder not in named]
    has_train = any(SPLIT_NAMES[folder.name.lower()] == "train" for folder in named)
    if not named or (others and not has_train):
        return {}
    if others and not all(_has_subfolder(folder) for folder in named):
        return {}
    splits: dict[str, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in splits:
            raise DataError(
                f"{listing.name}: both {splits[split].name}/ and {folder.name}/ would be the "
                f"{split} split; keep one"
            )
        splits[split] = folder
    if others:
        names = listed(path_text(folder.name) + "/" for folder in others)
        listing.notes.append(f"folders beside the splits are not used: {names}")
    return splits


def _has_subfolder(folder: Path) -> bool:
    return any(_is_folder(entry) for entry in _scan(folder))


def _add_class(root: Path, folder: Path, split: str | None, listing: Listing) -> None:
    label = same_text(path_text(folder.name))
    before = len(listing.pictures)
    prefix = len(str(root)) + (0 if str(root).endswith(os.sep) else 1)
    for path in _pictures_below(str(folder), listing):
        key = path[prefix:].replace(os.sep, "/")
        listing.pictures.append(ListedPicture(path, label, split, same_text(path_text(key))))
    if len(listing.pictures) == before:
        listing.problems.append(f"class folder {path_text(folder)} holds no pictures")


def _pictures_below(top: str, listing: Listing) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
        except OSError:
            continue  # it has gone since its parent was listed
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        below = []
        for entry in _scan(folder):
            if _is_folder(entry):
                below.append(entry.path)
            elif _is_picture(entry, listing):
                yield entry.path
        waiting.extend(reversed(below))


def _note_loose(folder: Path, names: list[str], listing: Listing) -> None:
    if names:
        listing.problems.append(
            f"{len(names)} pictures lie directly in {path_text(folder)}, in no class folder, and "
            f"are not used: {listed(map(path_text, names), 3)}"
        )


def _refuse_nested_data_set(root: Path, folders: list[Path], listing: Listing) -> None:
    """One folder that holds the class folders (as an archive often unpacks) is not a class."""
    if len({picture.label for picture in listing.pictures}) != 1:
        return
    holder = next(f for f in folders if same_text(path_text(f.name)) == listing.pictures[0].label)
    inner = [entry for entry in _scan(holder) if _is_folder(entry)]
    if len(inner) > 1:
        raise DataError(
            f"{listing.name}: has only one class folder, {path_text(holder.name)}/, with "
            f"{len(inner)} folders in it; if those are the classes, give {path_text(holder)}"
        )


def _no_class_folders(pictures: list[str]) -> str:
    return (
        f"holds {len(pictures)} pictures but no class folders; put the pictures of each class into "
        "a folder with the class's name"
    )


def _no_pictures(listing: Listing) -> str:
    if not listing.ignored:
        return "the folder is empty; it should hold a folder of pictures for each class"
    most = sorted(listing.ignored.items(), key=lambda item: -item[1])
    found = listed(f"{count} {suffix}" for suffix, count in most)
    return f"holds no pictures (files found: {found}); pictures end in .jpg, .png, .webp, .tif ..."
