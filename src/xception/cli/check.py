"""`xception check DATA`: look through a data set before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from xception.cli.arguments import Data, Switch, parse, unset

if TYPE_CHECKING:
    from xception.data import DataReport

DESCRIPTION = """Look through a data set before training on it.

Every picture is decoded once. Reported are pictures by class and split, their
sizes, files that cannot be read, pictures that occur in more than one split
or under two labels, and classes without pictures. The exit code is 0 where
nothing is wrong, else 1.

DATA is a folder of class folders (with or without train/, val/ and test/), a
table (.csv, .tsv, .parquet with columns path and label), or the name of a
data set."""

MAX_CLASSES = 40  # rows of the table


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # folder, table or name
    data: Data
    # everything that was found, as one JSON object
    json: Switch = False
    # processes that decode
    workers: Annotated[int | None, unset("INT", "one a core, none for few pictures")] = None


def run(argv: Sequence[str]) -> int:
    """Check and show; 1 if something should be put right."""
    arguments = parse(Arguments, "check", DESCRIPTION, argv)
    from xception.cli.screen import progress_bar
    from xception.data import check_data

    with progress_bar("decoding") as progress:
        report = check_data(arguments.data, workers=arguments.workers, progress=progress)
    if arguments.json:
        import json

        print(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        show(report)
    return 0 if report.ok else 1


def show(report: DataReport) -> None:
    """The report on standard output."""
    from rich.text import Text

    from xception.cli.screen import pictures, plain_table, screen, shown

    console = screen()
    splits = list(report.counts)
    console.print(
        f"{shown(report.name)}: {pictures(report.total)}, {len(report.classes):,} classes",
        soft_wrap=True,
    )
    console.print()
    table = plain_table()
    table.add_column("class", overflow="fold")
    for split in splits:
        table.add_column(split, justify="right")
    for label in report.classes[:MAX_CLASSES]:
        counts = [report.counts[split][label] for split in splits]
        cells = [Text(f"{n:,}", style="" if n else "bold red") for n in counts]
        table.add_row(Text(shown(label)), *cells)
    more = len(report.classes) - MAX_CLASSES
    if more > 0:
        table.add_row(Text(f"... and {more:,} more", style="dim"), *[""] * len(splits))
    table.add_section()
    totals = [sum(report.counts[split].values()) for split in splits]
    table.add_row("all", *(f"{n:,}" for n in totals), style="bold")
    console.print(table)
    console.print()
    for split, sizes in report.sizes.items():
        console.print(
            f"{split}: {_range(sizes.width)} pixels wide, {_range(sizes.height)} high",
            soft_wrap=True,
        )
    console.print()
    for problem in report.problems:
        console.print(Text.assemble(("problem  ", "bold red"), shown(problem)), soft_wrap=True)
    for note in report.notes:
        console.print(Text.assemble(("note     ", "yellow"), shown(note)), soft_wrap=True)
    if report.ok:
        console.print("Nothing is wrong with these data.", style="green")


def _range(sizes: tuple[int, int, int]) -> str:
    smallest, median, largest = sizes
    if smallest == largest:
        return f"{smallest:,}"
    return f"{smallest:,} to {largest:,} (median {median:,})"
