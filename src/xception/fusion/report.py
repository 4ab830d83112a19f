"""What `fuse` did to a network, for printing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One module: its path in the network, its class, and what became of it or why nothing did."""

    path: str
    kind: str
    text: str
    is_swapped: bool


@dataclass(frozen=True, slots=True)
class FusionReport:
    """All convolutions, normalizations and activations, in the order of their calls.

    `print(report)` is a table; `swapped` and `left` are its two kinds of lines.
    """

    entries: tuple[Entry, ...]

    @property
    def swapped(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.is_swapped)

    @property
    def left(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if not entry.is_swapped)

    def __str__(self) -> str:
        rows = [("module", "class", "what became of it")]
        rows += [
            (entry.path, entry.kind, entry.text if entry.is_swapped else f"left: {entry.text}")
            for entry in self.entries
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
        swapped, total = len(self.swapped), len(self.entries)
        return "\n".join([*lines, f"{swapped} of {total} modules swapped"])
