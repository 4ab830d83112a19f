"""The report's plots as matplotlib `Figure` objects (Agg canvas, no pyplot, no global state)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xception.errors import DataError
from xception.report import style
from xception.report.output import write_file
from xception.report.reading import clean_text, confusion_array, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED_CLASSES = 20  # up to so many, each cell of a confusion matrix holds its count
LABELLED_CLASSES = 40  # up to so many, its rows and columns carry their names
MAX_RASTER_SIDE = 320  # cells; more classes than this share a cell
STRONG = 0.84  # opacity of a fill above which white text on it is easier to read than black
PANELS = ("loss", "accuracy", "lr")
PANEL_WIDTH = 340  # CSS pixels


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` CSS pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unit = style.POINTS_PER_INCH
    figure = Figure(figsize=(width / unit, height / unit), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_curves(metrics: Sequence[Mapping[str, Any]], panels: Sequence[str] = PANELS) -> Figure:
    """Learning curves over the epochs, one panel each for "loss", "accuracy" and "lr".

    `metrics`: the rows of metrics.jsonl; loss in nats, accuracy 0..1. A value that is missing, None
    or not finite leaves a gap. Raises `ValueError` for an unknown panel.
    """
    unknown = sorted(set(panels) - set(PANELS))
    if unknown:
        raise ValueError(f"panels has unknown names {unknown}; known: {list(PANELS)}")
    with style.plot_style():
        figure = new_figure(PANEL_WIDTH * len(panels), 250)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        draw = {"loss": _draw_loss, "accuracy": _draw_accuracy, "lr": _draw_learning_rate}
        for panel, ax in zip(panels, axes, strict=True):
            draw[panel](ax, metrics)
        return figure


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    values = (number(row.get(key)) for row in metrics)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _draw_loss(ax: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    ax.set_ylabel("loss (nats per picture)")
    drawn = _draw_pair(ax, metrics, "loss", lowest=True)
    if drawn is None:
        return
    whose, last, best, epoch = drawn
    note = ", its lowest" if last == best else f", lowest {best:.3f} at epoch {epoch}"
    ax.set_title(f"{whose} loss {last:.3f}{note if len(metrics) > 1 else ''}", pad=24)


def _draw_accuracy(ax: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter

    ax.set_ylabel("accuracy (%)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
    drawn = _draw_pair(ax, metrics, "accuracy", lowest=False)
    if drawn is None:
        return
    whose, last, best, epoch = drawn
    note = ", its best" if last == best else f", best {best:.1%} at epoch {epoch}"
    ax.set_title(f"{whose} accuracy {last:.1%}{note if len(metrics) > 1 else ''}", pad=24)


def _draw_pair(
    ax: Axes, metrics: Sequence[Mapping[str, Any]], quantity: str, *, lowest: bool
) -> tuple[str, float, float, int] | None:
    """Draw training and validation; return (whose, last value, best value, its epoch)."""
    epochs = _epochs(ax, metrics)
    drawn = None
    marker = "o" if len(epochs) <= 12 else None
    for key, label, colour, dashes in (
        (f"train_{quantity}", "training", style.WRONG, (4.0, 2.0)),
        (f"val_{quantity}", "validation", style.RIGHT, (1.0, 0.0)),
    ):
        values = _series(metrics, key)
        seen = np.flatnonzero(np.isfinite(values))
        if len(seen) == 0:
            continue
        ax.plot(
            epochs, values, color=colour, dashes=dashes, marker=marker, markersize=3.5, label=label
        )
        at = int(seen[np.argmin(values[seen]) if lowest else np.argmax(values[seen])])
        whose = label.capitalize()
        drawn = (whose, float(values[seen[-1]]), float(values[at]), int(epochs[at]), colour)
    if drawn is None:
        _draw_nothing(ax, f"no {quantity} was recorded")
        return None
    whose, last, best, epoch, colour = drawn
    if len(epochs) > 1:  # a ring around the best epoch of the line that counts
        ax.plot([epoch], [best], "o", markersize=8, fillstyle="none", color=colour)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.03, 0.98), ncols=2, columnspacing=1.4, handlelength=2.2
    )
    return whose, last, best, epoch


def _draw_learning_rate(ax: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter

    ax.set_ylabel("learning rate")
    epochs = _epochs(ax, metrics)
    values = _series(metrics, "lr")
    seen = np.flatnonzero(np.isfinite(values))
    if len(seen) == 0:
        _draw_nothing(ax, "no learning rate was recorded")
        return
    marker = "o" if len(epochs) <= 12 else None
    ax.plot(epochs, values, color=style.INK, marker=marker, markersize=3.5)
    ax.set_ylim(bottom=min(0.0, float(values[seen].min())))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    peak = int(seen[np.argmax(values[seen])])
    if len(metrics) > 1:
        ax.set_title(f"Learning rate, highest {values[peak]:.3g} at epoch {epochs[peak]}", pad=24)
    else:
        ax.set_title(f"Learning rate {values[peak]:.3g}", pad=24)


def _epochs(ax: Axes, metrics: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The epochs' numbers, with the axis set for them."""
    from matplotlib.ticker import MaxNLocator

    epochs = np.array(
        [int(number(row.get("epoch")) or index + 1) for index, row in enumerate(metrics)],
        dtype=np.int64,
    )
    ax.set_xlabel("epochs finished")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    if len(epochs):  # half an epoch of room, and a sensible axis for a single one
        ax.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    return epochs


def _draw_nothing(ax: Axes, text: str) -> None:
    ax.set_title(text.capitalize(), pad=24)
    ax.set_xticks([])
    ax.set_yticks([])


def plot_reliability(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Reliability diagram: accuracy against confidence, and how many pictures each bin holds.

    `bins`: mappings of "confidence" and "accuracy" (0..1) and "count"; empty ones are left out. The
    bars are 95% Wilson intervals, so that a bin of few pictures is not read as miscalibration.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    rows = [[number(row.get(key)) for key in ("confidence", "accuracy", "count")] for row in bins]
    kept = [[v for v in row if v is not None] for row in rows if None not in row and row[2]]
    confidence, accuracy, count = np.array(kept, dtype=np.float64).reshape(-1, 3).T
    with style.plot_style():
        figure = new_figure(430, 430)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        percent = FuncFormatter(lambda value, _: f"{100 * value:.0f}")
        top.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1.0, dashes=(4, 3))
        top.text(0.97, 0.05, "dashed: as sure as it is right", color=style.MUTED, ha="right")
        low, high = wilson_interval(accuracy, count)
        top.vlines(confidence, low, high, color=style.RIGHT, linewidth=1.2)
        top.plot(confidence, accuracy, "o", color=style.RIGHT, markersize=5.5)
        top.set(xlim=(0, 1), ylim=(0, 1))
        top.set_ylabel("accuracy (% of the bin)")
        top.yaxis.set_major_formatter(percent)
        top.set_title(_calibration_title(confidence, accuracy, count), pad=12)
        bottom.bar(confidence, count, width=0.035, color=style.MUTED)
        bottom.set_ylabel("pictures")
        bottom.set_xlabel("confidence of the prediction (%)")
        bottom.xaxis.set_major_formatter(percent)
        bottom.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        return figure


def wilson_interval(
    share: float | np.ndarray, count: float | np.ndarray, z: float = 1.96
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end (0..1) of the score interval of `share` correct among `count` > 0.

    Unlike share +- z standard errors it stays within 0..1 and does not shrink to nothing at 0 or 1
    (E. B. Wilson, 1927).
    """
    p, n = np.asarray(share, dtype=np.float64), np.asarray(count, dtype=np.float64)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(np.clip(p * (1 - p), 0, None) / n + (z / (2 * n)) ** 2)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def _calibration_title(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray) -> str:
    if len(count) == 0:
        return "No predictions to compare"
    points = 100 * float((count * (confidence - accuracy)).sum() / count.sum())
    if abs(points) < 0.5:
        return "On average as sure as it is right"
    side = "Surer" if points > 0 else "Less sure"
    return f"{side} than right, by {abs(points):.1f} points on average"


def plot_confusion(
    confusion: Sequence[Sequence[float]] | np.ndarray, classes: Sequence[str]
) -> Figure:
    """Confusion matrix: rows are the true classes, columns the predicted ones.

    `confusion`: (n, n) counts; `classes`: n names. A cell is as strong as its share of its row (by
    square root: rare confusions stay visible), blue where right, orange where wrong. Counts are
    written up to 20 classes, names up to 40; above 320 classes several share a cell, which shows
    the strongest of them. Raises `DataError` where the matrix is none or does not fit the names.
    """
    matrix = confusion_array(confusion)
    if matrix is None:
        raise DataError("the confusion matrix is not a square table of counts")
    if len(matrix) != len(classes):
        raise DataError(f"the confusion matrix has {len(matrix)} rows but {len(classes)} classes")
    names = [clean_text(name, 18) for name in classes]
    n = len(matrix)
    with style.plot_style():
        if n <= NUMBERED_CLASSES:
            side = n * (46 if n <= 12 else 34)
        else:
            side = 18 * n if n <= LABELLED_CLASSES else 540
        side = max(side, 290)
        room = 7 * max(map(len, names)) if n <= LABELLED_CLASSES else 30
        figure = new_figure(side + room + 40, side + room * 0.8 + 70)
        ax = figure.subplots()
        ax.grid(False)
        ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")
        strength = _strength(matrix)
        if n <= NUMBERED_CLASSES:
            _draw_cells(ax, matrix, strength)
        else:
            image = _raster(strength)
            ax.imshow(image, extent=(-0.5, n - 0.5, n - 0.5, -0.5))
            ax.spines[:].set_visible(True)
        if n <= LABELLED_CLASSES:
            ax.set_yticks(range(n), names)
            ax.set_xticks(range(n), names)
            if n > 2:
                for label in ax.get_xticklabels():
                    label.set(rotation=45, ha="right", rotation_mode="anchor")
            ax.set_xlabel("predicted class")
            ax.set_ylabel("true class")
        else:
            ax.set_xlabel("predicted class (its number)")
            ax.set_ylabel("true class (its number)")
        ax.tick_params(length=0)
        right = float(np.trace(matrix))
        total = float(matrix.sum())
        ax.set_title(f"{total - right:,.0f} of {total:,.0f} pictures are off the diagonal", pad=10)
        return figure


def classes_per_cell(n: int) -> int:
    """How many of `n` classes share a row (and column) of the drawn matrix."""
    return -(-n // MAX_RASTER_SIDE)


def _strength(matrix: np.ndarray) -> np.ndarray:
    """(n, n) opacity 0..1: the square root of each cell's share of its row."""
    rows = matrix.sum(axis=1, keepdims=True)
    share = np.zeros_like(matrix)
    np.divide(matrix, rows, out=share, where=rows > 0)
    strength: np.ndarray = np.sqrt(share)
    return strength


def _draw_cells(ax: Axes, matrix: np.ndarray, strength: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for row, column in zip(*np.indices(matrix.shape).reshape(2, -1), strict=True):
        share = float(strength[row, column])
        colour = style.FILL_RIGHT if row == column else style.FILL_WRONG
        corner = (column - 0.47, row - 0.47)
        if share == 0:
            ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=style.RULE, alpha=0.35))
            continue
        ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=colour, alpha=share))
        ax.text(
            column, row, f"{matrix[row, column]:.0f}", ha="center", va="center_baseline",
            fontsize=10 if len(matrix) <= 12 else 9,
            color=style.ON_STRONG if share > STRONG else style.ON_PALE,
        )  # fmt: skip


def _raster(strength: np.ndarray) -> np.ndarray:
    """(m, m, 4) uint8 RGBA of at most MAX_RASTER_SIDE cells a side."""
    n = len(strength)
    wrong = strength.copy()
    np.fill_diagonal(wrong, 0.0)
    right = np.diag(np.diag(strength))
    block = classes_per_cell(n)
    if block > 1:
        m = -(-n // block)
        padded = np.zeros((2, m * block, m * block))
        padded[:, :n, :n] = wrong, right
        wrong, right = padded.reshape(2, m, block, m, block).max(axis=(2, 4))
    image = np.zeros((*wrong.shape, 4), dtype=np.uint8)
    image[..., :3] = np.where(right[..., None] > 0, style.RASTER_RIGHT, style.RASTER_WRONG)
    image[..., 3] = np.rint(255 * np.maximum(wrong, right))
    return image


def confusion_png(evaluation: Mapping[str, Any], path: str | Path) -> Path:
    """Write the confusion matrix of an evaluation (`Evaluation.to_dict()`) as a PNG on white.

    Raises `DataError` where the matrix is missing or damaged, `XceptionError` where `path` cannot
    be written.
    """
    path = Path(path)
    figure = plot_confusion(
        evaluation.get("confusion") or [], [str(name) for name in evaluation.get("classes") or []]
    )
    # inches: a picture that stands alone needs a margin
    figure.set_layout_engine("constrained", w_pad=0.2, h_pad=0.2)
    save_figure(figure, path, "the confusion matrix")
    return path


def save_figure(figure: Figure, path: Path, what: str) -> None:
    """Write it on white, as a PNG or SVG by the path's ending; `what` names it in an error."""
    buffer = io.BytesIO()
    with style.plot_style():
        figure.savefig(
            buffer, format=path.suffix[1:], dpi=2 * style.POINTS_PER_INCH, facecolor="white"
        )
    write_file(path, buffer.getvalue(), what)
