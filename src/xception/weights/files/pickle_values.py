"""What a pickle holds, as inert records.

Values can be nested as deeply as a pickle is long and can hold themselves: walk them with a bound,
and never print, compare, hash or copy them whole. Mappings are lists of pairs, since a stranger can
choose keys that take for ever to hash or to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A class or function that the pickle names; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Pairs:
    """A mapping, as its (key, value) pairs in the order in which they were set."""

    pairs: list[tuple[Any, Any]]


@dataclass(slots=True, eq=False)
class Made:
    """What calling `function` would have made, had it been called; also sets."""

    function: Any
    arguments: tuple[Any, ...]
    state: Any = None  # the last that was given
    items: list[Any] | None = None  # appended to it as to a list
    pairs: list[tuple[Any, Any]] | None = None  # set in it as in a mapping


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A thing outside of the pickle, by what the pickle says of it: torch's storages."""

    identity: Any


def pairs_of(value: Any) -> list[tuple[Any, Any]] | None:
    """The pairs of a mapping or of an object that stands for one (OrderedDict), otherwise None."""
    if isinstance(value, Pairs):
        return value.pairs
    if not isinstance(value, Made):
        return None
    if value.pairs:
        return value.pairs
    if not _is_builtin(value.function, "OrderedDict", "defaultdict", "Counter", "dict"):
        return None
    items = value.arguments[0] if value.arguments else None
    if isinstance(items, Pairs):
        return items.pairs
    if isinstance(items, list):  # Python 2's OrderedDict
        found = [(i[0], i[1]) for i in items if isinstance(i, (list, tuple)) and len(i) == 2]
        return found if len(found) == len(items) else None
    return []


def elements_of(value: Any) -> list[Any]:
    """The elements of a list, tuple or set; none of anything else."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, Made) and _is_builtin(value.function, "set", "frozenset"):
        given = value.arguments[0] if value.arguments else None
        return [*(given if isinstance(given, (list, tuple)) else ()), *(value.items or ())]
    return []


def _is_builtin(function: Any, *names: str) -> bool:
    return (
        isinstance(function, Name)
        and function.module in ("builtins", "__builtin__", "collections")
        and function.name in names
    )
