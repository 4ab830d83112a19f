"""An evaluation as a person reads it in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from xception.cli.screen import pictures, plain_table, say, screen, shown

if TYPE_CHECKING:
    from xception.inference import Evaluation

MAX_CLASSES = 30  # rows of the table, the weakest classes first
MAX_CONFUSIONS = 5
MAX_SKIPPED = 10  # unreadable pictures that are named


def show_evaluation(evaluation: Evaluation, data: str) -> None:
    """Headline figures, classes from weakest to strongest, and the most frequent confusions."""
    console = screen()
    console.print(
        f"{shown(evaluation.model)} on {shown(data)}: "
        f"{pictures(evaluation.count)} of the {evaluation.split} split",
        soft_wrap=True,
    )
    for show in (_show_figures, _show_classes, _show_confusions):
        console.print()
        show(evaluation, console)
    for skipped in evaluation.skipped[:MAX_SKIPPED]:
        say(f"skipped {skipped.name}: {skipped.reason}")
    if evaluation.skipped:
        say(f"{pictures(len(evaluation.skipped))} could not be read: left out of all figures")


def _show_figures(evaluation: Evaluation, console: Console) -> None:
    table = plain_table()
    table.show_header = False
    table.add_column()
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    error = 100 * evaluation.top1_standard_error
    table.add_row("top-1 accuracy", _percent(evaluation.top1), f"standard error {error:.1f} points")
    if evaluation.top5 is not None:
        table.add_row("top-5 accuracy", _percent(evaluation.top5))
    table.add_row(
        "calibration error",
        _percent(evaluation.calibration_error),
        "mean distance of probability and accuracy",
    )
    table.add_row("loss", f"{evaluation.loss:.3f}", "nats a picture")
    console.print(table)


def _show_classes(evaluation: Evaluation, console: Console) -> None:
    scores = sorted(
        (score for score in evaluation.per_class if score.f1 is not None),
        key=lambda score: score.f1 or 0.0,
    )
    table = plain_table()
    table.add_column("class, weakest first", overflow="fold")
    for name in ("pictures", "precision", "recall", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores[:MAX_CLASSES]:
        shares = (score.precision, score.recall, score.f1)
        table.add_row(Text(shown(score.name)), f"{score.count:,}", *map(_percent, shares))
    console.print(table)
    more = len(scores) - MAX_CLASSES
    if more > 0:
        console.print(f"and {more:,} stronger classes (all are in evaluation.json, with --out)")
    absent = len(evaluation.per_class) - len(scores)
    if absent:
        console.print(f"{absent:,} classes of the model have no picture here")


def _show_confusions(evaluation: Evaluation, console: Console) -> None:
    counts = [
        (count, evaluation.classes[row], evaluation.classes[column])
        for row, line in enumerate(evaluation.confusion)
        for column, count in enumerate(line)
        if count and row != column
    ]
    if not counts:
        return
    counts.sort(key=lambda entry: -entry[0])
    table = plain_table()
    table.add_column("most frequent mistakes", justify="right")
    table.add_column("is", overflow="fold")
    table.add_column("taken for", overflow="fold")
    for count, label, prediction in counts[:MAX_CONFUSIONS]:
        table.add_row(f"{count:,}", Text(shown(label)), Text(shown(prediction)))
    console.print(table)


def _percent(share: float | None) -> str:
    return "\N{EN DASH}" if share is None else f"{100 * share:.1f}%"
