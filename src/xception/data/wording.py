"""Lists and paths as they stand in one-line messages."""

from __future__ import annotations

import os
from collections.abc import Iterable


def listed(items: Iterable[str], most: int = 5) -> str:
    """The first few of `items` for a one-line message, and how many more there are."""
    everything = list(items)
    shown = ", ".join(everything[:most])
    more = len(everything) - most
    return f"{shown} and {more} more" if more > 0 else shown


def path_text(path: str | os.PathLike[str]) -> str:
    """A path for messages; bytes that are not text become visible escapes."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")
