"""The plot of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xception.report import style
from xception.report.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    lowest: float,
    suggested: float,
) -> Figure:
    """Loss in nats over the learning rate, its running mean, and the rate that is suggested.

    lowest: the rate at which the running mean was least
    """
    from matplotlib.ticker import FuncFormatter

    with style.plot_style():
        figure = new_figure(560, 320)
        axes = figure.subplots()
        axes.plot(rates, losses, ".", color=style.MUTED, markersize=3, label="a step")
        axes.plot(rates, smoothed, color=style.RIGHT, label="running mean")
        axes.axvline(suggested, color=style.WRONG, dashes=(4, 2), label="a tenth of the lowest")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        seen = np.array([value for value in smoothed if np.isfinite(value)])
        if len(seen):
            axes.set_ylim(0, 1.6 * max(seen[0], float(np.median(seen))))
        axes.set(xlabel="learning rate", ylabel="loss (nats per picture)")
        axes.set_title(f"Learning rate {suggested:.2g}, with warm-up up to {lowest:.2g}")
        axes.legend(loc="lower left")
        return figure
