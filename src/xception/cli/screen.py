"""What a person sees: tables, a progress bar, and names that cannot upset a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

UNBOUND_WIDTH = 140  # columns, where no terminal sets them


def screen() -> Console:
    """Standard output; a pipe or file gets wide lines without colours."""
    bound = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if bound else UNBOUND_WIDTH, highlight=False, markup=False)


def plain_table() -> Table:
    """A table of columns under a line, without a frame."""
    return Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1), show_edge=False
    )


def say(line: str) -> None:
    """One line beside the result: on stderr, so that it never mixes with it."""
    print(shown(line), file=sys.stderr)


@contextmanager
def stages(first: str | None = None) -> Iterator[Callable[[str], None]]:
    """Tell on stderr what long work is at; call it with what is done next.

    A person at a terminal sees the stage that is going on, and nothing of it afterwards; elsewhere
    each call is a line.

    first: what is done until the first call; shown at a terminal alone
    """
    if not sys.stderr.isatty():
        yield lambda stage: say(f"{stage} ...")
        return
    from rich.status import Status
    from rich.text import Text

    status = Status("", console=Console(stderr=True))

    def show(stage: str) -> None:
        status.update(Text(f"{shown(stage)} ..."))
        status.start()

    if first is not None:
        show(first)
    try:
        yield show
    finally:
        status.stop()


def pictures(count: int) -> str:
    """The count and the word in its number: "1 picture", "1,200 pictures"."""
    return f"{count:,} picture{'' if count == 1 else 's'}"


def shown(text: str) -> str:
    """`text` on one line and without control characters, which would steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shown_path(path: str, width: int) -> str:
    """`path` in at most `width` columns; its end, which names the file, is kept."""
    text = shown(path)
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) >= width:
        text = text[1:]
    return f"\N{HORIZONTAL ELLIPSIS}{text}"


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr while the block runs, if a person looks on; call it with (done, total).

    total may be None: not known yet
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
