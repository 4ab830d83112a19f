"""The figures of docs/speed.md, drawn from the raw results."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xception.report.style import INK, MUTED, POINTS_PER_INCH, RIGHT, WRONG, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 830  # CSS pixels; what a README shows
PANEL_HEIGHT = 270
# Of the networks: colours that every eye tells apart, with a marker and a dash of their own.
OURS: dict[str, Any] = {"color": RIGHT, "marker": "o", "linestyle": "-"}
PEER: dict[str, Any] = {"color": WRONG, "marker": "s", "linestyle": (0, (5, 2))}
THIRD: dict[str, Any] = {"color": MUTED, "linestyle": (0, (1, 1.5))}
SMOOTHED = 10  # steps


def save(figure: Figure, path: Path) -> None:
    """As an SVG on white, the same file for the same figures; or as a PNG, by the path's ending."""
    import matplotlib

    with plot_style():
        matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": path.stem})
        buffer = io.BytesIO()
        kind = path.suffix[1:]
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, facecolor="white", metadata=metadata, dpi=144)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def _panels(rows: int, height: float = PANEL_HEIGHT) -> tuple[Figure, list[Axes]]:
    """Two panels a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (WIDTH / POINTS_PER_INCH, rows * height / POINTS_PER_INCH)
    apart = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1)  # inches
    figure = Figure(figsize=size, layout=apart)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, 2, squeeze=False).flat)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


# How cost grows

Rows = Sequence[dict[str, Any]]


def growth(result: dict[str, Any]) -> Figure:
    """One panel a quantity that was measured."""
    drawers: dict[str, Callable[[Axes, Rows], None]] = {
        "batch_small": _draw_batch_small,
        "batch": _draw_batch,
        "size": _draw_size,
        "width": _draw_width,
        "segments": _draw_segments,
        "threads": _draw_threads,
    }
    curves = {name: rows for name, rows in result["curves"].items() if rows}
    with plot_style():
        figure, panels = _panels((len(curves) + 1) // 2)
        for (name, rows), axes in zip(curves.items(), panels):
            drawers[name](axes, rows)
            axes.grid(axis="x", visible=False)
            _legend(axes)
        for axes in panels[len(curves) :]:
            axes.axis("off")
        return figure


def _curves(
    axes: Axes, rows: Rows, positions: Sequence[float], scaled: Callable[[dict[str, Any]], float]
) -> None:
    """Medians with their quartiles; `scaled(row)` is the factor on the seconds of a row."""
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    for name in names:
        points = [(x, r["seconds"][name], scaled(r)) for x, r in zip(positions, rows)
                  if name in r["seconds"]]  # fmt: skip
        x = [p[0] for p in points]
        style = OURS if name == "ours" else PEER
        axes.plot(x, [p[1]["median_s"] * p[2] for p in points], label=name, **style)
        low = [p[1]["first_quartile_s"] * p[2] for p in points]
        high = [p[1]["third_quartile_s"] * p[2] for p in points]
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _logarithmic(axes: Axes, values: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """Base two below, with a tick at every value; base ten on the left, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(values, labels or [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high > 5 * low else (1, 1.5, 2, 3, 5, 7)
    ticks = [step * 10**e for e in range(-1, 6) for step in steps]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_batch_small(axes: Axes, rows: Rows) -> None:
    axes.set_title("Batch: xception_tiny, 32x32")
    _draw_per_picture(axes, rows)


def _draw_batch(axes: Axes, rows: Rows) -> None:
    axes.set_title("Batch: xception, 150x150")
    _draw_per_picture(axes, rows)


def _draw_per_picture(axes: Axes, rows: Rows) -> None:
    values = [row["value"] for row in rows]
    _curves(axes, rows, values, lambda row: 1000 / row["batch"])
    axes.set(xlabel="pictures a step", ylabel="ms a picture, training")
    _logarithmic(axes, values)


def _draw_size(axes: Axes, rows: Rows) -> None:
    values = [row["value"] for row in rows]
    _curves(axes, rows, [value**2 / 1000 for value in values], lambda row: 1000)
    axes.set_title(f"Picture size: xception, batch {rows[0]['batch']}")
    axes.set(xlabel="side, pixels (axis linear in their number)", ylabel="ms a step")
    axes.set_xticks([value**2 / 1000 for value in values], [str(value) for value in values])
    axes.set_ylim(bottom=0)


def _draw_width(axes: Axes, rows: Rows) -> None:
    values = [row["value"] for row in rows]
    _curves(axes, rows, values, lambda row: 1000)
    axes.set_title(f"Width: xception_tiny, 32x32, batch {rows[0]['batch']}")
    axes.set(xlabel="channels, as a multiple of xception_tiny's", ylabel="ms a step")
    _logarithmic(axes, values)


def _draw_segments(axes: Axes, rows: Rows) -> None:
    last = 2 * max((r["value"] for r in rows if r["value"] != "channels"), default=1)
    values = [last if row["value"] == "channels" else row["value"] for row in rows]
    _curves(axes, rows, values, lambda row: 1000)
    axes.set_title(f"Segments: xception_tiny, 32x32, batch {rows[0]['batch']}")
    axes.set(xlabel="spatial segments a layer (all: one a channel)", ylabel="ms a step")
    _logarithmic(
        axes, values, ["all" if row["value"] == "channels" else str(row["value"]) for row in rows]
    )
    axes.set_yscale("linear")
    axes.set_ylim(bottom=0)


def _draw_threads(axes: Axes, rows: Rows) -> None:
    values = [row["value"] for row in rows]
    _curves(axes, rows, values, lambda row: 1)
    first = rows[0]["seconds"]["ours"]["median_s"] * values[0]
    axes.plot(values, [first / value for value in values], label="ours, if ideal", **THIRD)
    size = rows[0]["size"]
    axes.set_title(f"Threads: xception, {size}x{size}, batch {rows[0]['batch']}")
    axes.set(xlabel="threads", ylabel="seconds a step")
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_ylim(bottom=0)


# Training with the kernels and without


def training_curves(result: dict[str, Any]) -> Figure:
    """Loss and accuracy above, below how far two runs are apart."""
    from matplotlib.ticker import MaxNLocator

    with plot_style():
        figure, panels = _panels(2, 240)
        loss, accuracy, loss_apart, accuracy_apart = panels
        seeds = sorted({run["seed"] for run in result["runs"]})
        for seed in seeds:
            auto, off, other = (
                _run(result, seed, kind, threads)
                for kind, threads in (("auto", True), ("off", True), ("off", False))
            )
            if seed == seeds[0]:
                _draw_losses(loss, loss_apart, auto, off, other)
            _draw_accuracies(accuracy, accuracy_apart, auto, off, other, seed == seeds[0])
        loss.set_title(f"Loss, seed {seeds[0]}")
        loss.set(xlabel="step", ylabel=f"nats, mean of {SMOOTHED} steps")
        loss_apart.set_title("Difference of the loss from plain torch's")
        loss_apart.set(xlabel="step", ylabel=f"nats, mean of {SMOOTHED} steps")
        accuracy.set_title("Accuracy on validation pictures, every seed")
        accuracy.set(xlabel="epoch", ylabel="%")
        accuracy_apart.set_title("Its difference from plain torch's")
        accuracy_apart.set(xlabel="epoch", ylabel="percentage points")
        for axes in (loss_apart, accuracy_apart):
            axes.margins(y=0.3)  # room for the legend
        for axes in panels:
            _legend(axes)
        for axes in (accuracy, accuracy_apart):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure


def _run(result: dict[str, Any], seed: int, kernels: str, same_threads: bool) -> dict[str, Any]:
    return next(
        run
        for run in result["runs"]
        if run["seed"] == seed
        and run["kernels"] == kernels
        and run["kept"] == "float32"
        and (run["threads"] == result["threads"]) == same_threads
    )


def _smooth(losses: Sequence[float]) -> np.ndarray:
    width = min(SMOOTHED, len(losses))
    return np.convolve(np.asarray(losses), np.full(width, 1 / width), mode="valid")


Run = dict[str, Any]


def _labels(auto: Run, off: Run, other: Run) -> tuple[str, str, str]:
    plural = "" if other["threads"] == 1 else "s"
    return "with the kernels", "plain torch", f"plain torch, {other['threads']} thread{plural}"


def _draw_losses(axes: Axes, apart: Axes, auto: Run, off: Run, other: Run) -> None:
    with_kernels, plain, plain_other = _labels(auto, off, other)
    curves = [_smooth(run["step_loss"]) for run in (auto, off, other)]
    steps = np.arange(len(curves[0])) + len(off["step_loss"]) - len(curves[0]) + 1
    axes.plot(steps, curves[0], label=with_kernels, color=RIGHT)
    axes.plot(steps, curves[1], label=plain, color=WRONG, linestyle=PEER["linestyle"])
    axes.set_ylim(bottom=0)
    apart.axhline(0, color=INK, linewidth=0.8)
    apart.plot(steps, curves[2] - curves[1], label=plain_other, **THIRD)
    apart.plot(steps, curves[0] - curves[1], label=with_kernels, color=RIGHT)


def _draw_accuracies(
    axes: Axes, apart: Axes, auto: Run, off: Run, other: Run, is_first: bool
) -> None:
    labels = _labels(auto, off, other) if is_first else ("", "", "")
    curves = [100 * np.array([e["val_accuracy"] for e in r["epochs"]]) for r in (auto, off, other)]
    epochs = np.arange(1, len(curves[0]) + 1)
    axes.plot(epochs, curves[0], label=labels[0], **OURS)
    axes.plot(epochs, curves[1], label=labels[1], **PEER)
    if is_first:
        apart.axhline(0, color=INK, linewidth=0.8)
    apart.plot(epochs, curves[2] - curves[1], label=labels[2], marker="^", **THIRD)
    apart.plot(epochs, curves[0] - curves[1], label=labels[0], **OURS)
