"""From what the user names to the pictures meant: files, folders, patterns, a list."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from xception.data.decode import PICTURE_SUFFIXES
from xception.data.wording import path_text
from xception.errors import DataError, UsageError

LIST = "-"  # names come from standard input, one a line


def find_pictures(words: Sequence[str]) -> Iterator[str]:
    """Paths of pictures, in the order of `words` and sorted within a folder or pattern.

    A folder is searched through for files with a picture's ending, hidden ones aside. A word that
    is no path but holds *, ? or [ is a pattern (** crosses folders). "-" reads more names from
    standard input while they come. What does not exist is handed on, for its reader to report.

    Raises:
        UsageError: no words, or "-" given twice.
        DataError: a folder without pictures, or a pattern that nothing has.
    """
    if not words:
        raise UsageError("which pictures? give files, folders or patterns, or - for a list")
    if words.count(LIST) > 1:
        raise UsageError("standard input can be read only once; give one -")
    if LIST not in words:
        return iter([path for word in words for path in _meant(word)])
    place = words.index(LIST)
    before, after = (
        [path for word in part for path in _meant(word)]
        for part in (words[:place], words[place + 1 :])
    )
    return chain(before, _listed(sys.stdin.buffer), after)


def _listed(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        name = os.fsdecode(line.rstrip(b"\r\n"))
        if name:
            yield from _below(name) if os.path.isdir(name) else [name]


def _meant(word: str) -> Iterable[str]:
    word = os.path.expanduser(word)
    if os.path.isdir(word):
        found = list(_below(word))
        if not found:
            raise DataError(f"{path_text(word)}: there are no pictures in this folder")
        return found
    if not os.path.lexists(word) and glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))
        files = [path for path in matches if not os.path.isdir(path)]
        if not files:
            raise DataError(f"{path_text(word)}: no file has a name of this pattern")
        return files
    return [word]


def _below(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in PICTURE_SUFFIXES and not name.startswith("."):
                yield os.path.join(parent, name)
