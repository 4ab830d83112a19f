"""What stands in a file, in print: short, on one line, and without power over a terminal."""

from __future__ import annotations

from collections.abc import Iterable

# How the choices of an importer begin that a publisher's or user's own words can replace.
PICTURES_UNSAID = "the file does not say how pictures are"
CLASSES_UNSAID = "the file does not name its"


def quoted(value: object, most: int = 80) -> str:
    """Anything from a file as short printable text on one line."""
    text = str(value)[: most + 1]
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown if len(text) <= most else shown[:most] + "..."


def listed(names: Iterable[object], most: int = 3) -> str:
    """The first of the names in print, and how many more there are."""
    names = list(names)
    shown = ", ".join(quoted(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def sizes(shape: Iterable[int]) -> str:
    """A tensor's shape, such as 64x3x3x3."""
    return quoted("x".join(map(str, shape))) or "a single number"
