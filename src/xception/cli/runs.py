"""`xception runs [FOLDER]`: list training runs, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from xception.cli.arguments import Switch, parse, unset, word
from xception.cli.output import check_figure

if TYPE_CHECKING:
    from xception.report.reading import Run

DESCRIPTION = """List training runs: what they learned from, how far they are, what they reached.

FOLDER holds the run folders (runs/ by default). With --only, or where there
are few of them, the settings in which they differ stand below. --plot FILE
lays their curves over each other, as a PNG or SVG by its ending."""

FEW = 8  # runs whose differences are shown without being asked


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # folder of run folders, or a run folder
    folder: Annotated[Path, tyro.conf.Positional, word("FOLDER", "(default: runs)")] = Path("runs")
    # of these runs alone
    only: Annotated[list[str], unset("NAME ...", "all")] = field(default_factory=list)
    # picture of loss and accuracy over the epochs
    plot: Annotated[Path | None, unset("FILE", "write none")] = None
    # a list of JSON objects with what the tables show
    json: Switch = False


def run(argv: Sequence[str]) -> int:
    """List them; always 0."""
    arguments = parse(Arguments, "runs", DESCRIPTION, argv)
    from xception.report.comparison import differences, read_runs

    check_figure(arguments.plot)
    runs = read_runs(arguments.folder, arguments.only)
    if arguments.json:
        import json

        print(json.dumps([_row(one) | {"recipe": one.recipe} for one in runs], indent=2))
    else:
        _show(runs)
        if 1 < len(runs) <= FEW or arguments.only:
            _show_differences(runs, differences(runs))
    if arguments.plot is not None:
        from xception.cli.screen import say
        from xception.report.comparison import plot_runs
        from xception.report.plots import save_figure

        save_figure(plot_runs(runs), arguments.plot, "the curves")
        say(f"written: {arguments.plot}")
    return 0


def _row(one: Run) -> dict[str, Any]:
    """Accuracies 0..1; None where nothing was measured."""
    from xception.report.comparison import best

    validation, evaluation = best(one, "val_accuracy"), one.evaluation
    seconds = [row["seconds"] for row in one.metrics if row["seconds"] == row["seconds"]]
    return {
        "name": one.name,
        "model": one.recipe.get("model", ""),
        "data": one.recipe.get("data", ""),
        "epochs_done": int(one.metrics[-1]["epoch"]) if one.metrics else 0,
        "epochs": int(one.recipe["epochs"]) if one.recipe.get("epochs", "").isdecimal() else None,
        "best_validation_accuracy": validation[0] if validation else None,
        "best_epoch": validation[1] if validation else None,
        "evaluated_on": evaluation.split if evaluation else None,
        "accuracy": evaluation.top1 if evaluation else None,
        "pictures": evaluation.count if evaluation else None,
        "training_seconds": sum(seconds) if seconds else None,
    }


def _show(runs: Sequence[Run]) -> None:
    from xception.cli.screen import plain_table, screen, shown, shown_path

    table = plain_table()
    table.add_column("run", no_wrap=True, style="bold")
    table.add_column("network", no_wrap=True)
    table.add_column("data")
    for title in ("epochs", "validation", "at the end", "minutes"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in runs:
        row = _row(one)
        validation, accuracy = row["best_validation_accuracy"], row["accuracy"]
        seconds = row["training_seconds"]
        table.add_row(
            shown(row["name"]),
            shown(row["model"]),
            shown_path(row["data"], 30),
            f"{row['epochs_done']}/{'?' if row['epochs'] is None else row['epochs']}",
            "" if validation is None else f"{validation:.4f} ({row['best_epoch']})",
            "" if accuracy is None else f"{accuracy:.4f} {row['evaluated_on']}",
            "" if seconds is None else f"{seconds / 60:,.1f}",
        )
    console = screen()
    console.print(table)
    console.print("validation: the highest accuracy and its epoch", style="dim")


def _show_differences(runs: Sequence[Run], found: dict[str, list[str]]) -> None:
    from xception.cli.screen import plain_table, screen, shown

    console = screen()
    if not found:
        console.print("their settings are the same")
        return
    table = plain_table()
    table.add_column("setting", no_wrap=True, style="bold")
    for one in runs:
        table.add_column(shown(one.name), justify="right")
    for name, values in found.items():
        table.add_row(shown(name), *(shown(value) for value in values))
    console.print()
    console.print(table)
