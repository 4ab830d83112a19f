"""How many unreadable pictures a run puts up with, and their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from xception.data.wording import listed
from xception.errors import DataError


class UnreadableTally:
    """Counts the pictures that cannot be read in a run and stops it when they are too many.

    Args:
        total: pictures in the data set; `limit` is a share of it.
        limit: largest share of unreadable pictures that a run puts up with, 0..1.
        on_unreadable: called once with each unreadable picture's name and reason.
    """

    def __init__(
        self,
        total: int,
        limit: float = 0.01,
        on_unreadable: Callable[[str, str], None] | None = None,
    ) -> None:
        self.total = total
        self.limit = limit
        self.reasons: dict[str, str] = {}  # by name, in the order of appearance
        self._on_unreadable = on_unreadable

    @property
    def count(self) -> int:
        """Different pictures that could not be read so far."""
        return len(self.reasons)

    def add(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Take in the `skipped` of a batch; DataError with the list when the limit is passed."""
        for name, reason in skipped:
            if name in self.reasons:
                continue
            self.reasons[name] = reason
            if self._on_unreadable is not None:
                self._on_unreadable(name, reason)
        if self.count > self.limit * self.total:
            raise DataError(
                f"{self.count} of {self.total} pictures cannot be read, more than the allowed "
                f"{self.limit:.1%}: {listed(f'{n} ({r})' for n, r in self.reasons.items())}; "
                "repair or remove them (`xception check` lists all), or raise max_unreadable"
            )
