"""Several runs side by side: what they reached, in which settings they differ, their curves."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xception.errors import DataError
from xception.report import style
from xception.report.plots import new_figure
from xception.report.reading import Run, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008: eight colours that common colour blindness keeps apart; then dashes differ.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1c2127", "#8a8a00",
)  # fmt: skip
DASHES = ((1.0, 0.0), (4.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0))
MOST_PLOTTED = len(COLOURS) * len(DASHES)
UNTOLD = ("name", "out")  # settings in which every run differs


def read_runs(folder: str | Path, names: Sequence[str] = ()) -> list[Run]:
    """The runs in `folder` by name (or `folder` itself, if it is one), read leniently.

    names: of those that are wanted, in this order; none: all.
    Raises DataError where there is no run, or none of a name.
    """
    folder = Path(folder)
    if (folder / "recipe.yaml").is_file():
        found = [folder]
    elif folder.is_dir():
        found = sorted(
            (path.parent for path in folder.glob("*/recipe.yaml")), key=lambda p: _natural(p.name)
        )
    else:
        raise DataError(f"{folder}: no such folder; give the one that holds the runs")
    if not found:
        raise DataError(f"{folder}: there are no runs in it (folders with a recipe.yaml)")
    by_name = {path.name: path for path in found}
    for name in names:
        if name not in by_name:
            raise DataError(f"{folder}: there is no run {name!r}; it has {', '.join(by_name)}")
    return [read_run(by_name[name]) for name in names] if names else [read_run(p) for p in found]


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs: of each, every run's value ("" for none)."""
    fields = dict.fromkeys(name for run in runs for name in run.recipe)
    values = {name: [run.recipe.get(name, "") for run in runs] for name in fields}
    return {
        name: found for name, found in values.items() if name not in UNTOLD and len(set(found)) > 1
    }


def best(run: Run, key: str) -> tuple[float, int] | None:
    """The highest value of a column of the metrics, and its epoch; None where there is none."""
    rows = [(row[key], int(row["epoch"])) for row in run.metrics if math.isfinite(row[key])]
    return max(rows, key=lambda row: (row[0], -row[1])) if rows else None


def plot_runs(runs: Sequence[Run]) -> Figure:
    """Training loss and validation accuracy (training accuracy where none was measured) of all.

    Raises DataError for more runs than lines can be told apart, or without an epoch.
    """
    if len(runs) > MOST_PLOTTED:
        raise DataError(f"{len(runs)} runs are too many for a plot of {MOST_PLOTTED}; name some")
    if not any(run.metrics for run in runs):
        raise DataError("none of these runs has finished an epoch; there is nothing to plot")
    has_validation = any(best(run, "val_accuracy") for run in runs)
    whose = "val" if has_validation else "train"
    with style.plot_style():
        figure = new_figure(760, 300 + 16 * ((len(runs) + 1) // 2))
        loss, accuracy = figure.subplots(1, 2)
        for number, run in enumerate(runs):
            _draw(loss, run, "train_loss", number, 1)
            _draw(accuracy, run, f"{whose}_accuracy", number, 100)
        loss.set(title="Training loss", xlabel="epochs finished", ylabel="nats per picture")
        title = f"Accuracy on {'validation' if has_validation else 'training'} pictures"
        accuracy.set(title=title, xlabel="epochs finished", ylabel="%")
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return figure


def _draw(ax: Axes, run: Run, key: str, number: int, factor: float) -> None:
    from matplotlib.ticker import MaxNLocator

    values = np.array([row[key] * factor for row in run.metrics], dtype=np.float64)
    ax.plot(
        [row["epoch"] for row in run.metrics],
        values,
        label=run.name,
        color=COLOURS[number % len(COLOURS)],
        dashes=DASHES[number // len(COLOURS)],
        marker="o" if len(values) <= 12 else None,
        markersize=3,
    )
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def _natural(name: str) -> list[tuple[int, int | str]]:
    """run-2 before run-10."""
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in re.split(r"(\d+)", name)]
