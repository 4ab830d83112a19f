"""The picture of a network in the manner of the paper's Fig. 5: three flows side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from xception.models import anatomy as parts
from xception.models.anatomy import Anatomy, Block, Flow, Step
from xception.models.classifier import FeatureExtractor
from xception.models.summary import summarize, totals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Lengths are inches; the y axis runs downwards from the top of the figure.
_MARGIN = 0.35
_HEADING = 0.8  # name of the network and its figures
_FOOT = 0.7  # legend and note
_COLUMN = 3.7
_COLUMN_GAP = 0.3
_FLOW_TITLE = 0.62  # and the shape that comes in
_BOX_WIDTH = 2.65
_BOX = 0.29
_THIN_BOX = 0.2  # activations
_TALL_BOX = 0.42  # two lines
_LEAST_WIDTH = 8.4  # of the figure: what heading and legend need
_GAP = 0.1  # between boxes
_PANEL_PAD = 0.14
_BRANCH = 0.12  # above the first box, where the residual connection leaves
_BETWEEN = 0.46  # between blocks: arrow and shape
_SKIP_OFFSET = 0.3  # residual connection, left of the boxes
_PLUS_ROOM = 0.34
_PLUS_RADIUS = 0.085

_INK = "#22303c"
_FAINT = "#6b7784"
_PANEL = "#f4f6f8"
_PANEL_EDGE = "#dde3e9"
_SKIP = "#b4552d"
_COLORS = {  # kind: fill, edge
    parts.CONVOLUTION: ("#cfe0f3", "#4a7fb5"),
    parts.SEPARABLE: ("#cdebe3", "#2f8f78"),
    parts.ACTIVATION: ("#ffffff", "#b3bcc6"),
    parts.NORMALIZATION: ("#ffffff", "#b3bcc6"),
    parts.POOLING: ("#fbe6bd", "#c48a1a"),
    parts.CLASSIFIER: ("#e3d8f2", "#7c5bb0"),
}


def draw_diagram(
    model: nn.Module, path: str | Path, size: int | tuple[int, int] | None = None
) -> None:
    """Draw `model` into the file `path`; its ending chooses the format (.png, .svg, .pdf).

    Shows every layer with its channels, strides and dilation, the residual connections, and the
    size of each feature map; equal blocks in a row are drawn once.
    size: side or (height, width) of the picture in pixels; by default `model.preprocessing.size`
    Raises ValueError for a module without stages or an unknown ending, OSError when `path` cannot
    be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    content = parts.anatomy(model, size)
    columns = len(content.flows)
    width = 2 * _MARGIN + columns * _COLUMN + (columns - 1) * _COLUMN_GAP
    width = max(width, _LEAST_WIDTH)
    height = max(_flow_height(flow) for flow in content.flows)
    height += 2 * _MARGIN + _HEADING + _FOOT
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)  # no window, whatever the user's backend
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    pen = _Pen(axes)
    _draw_heading(pen, model, content, size)
    for index, flow in enumerate(content.flows):
        left = _MARGIN + index * (_COLUMN + _COLUMN_GAP)
        _draw_flow(pen, flow, left, _MARGIN + _HEADING)
    _draw_foot(pen, content, height - _MARGIN - _FOOT)
    figure.savefig(path, dpi=160)


def _draw_heading(
    pen: _Pen, model: nn.Module, content: Anatomy, size: int | tuple[int, int] | None
) -> None:
    network = model.network if isinstance(model, FeatureExtractor) else model
    name = getattr(network, "architecture", {}).get("name", type(network).__name__)
    if network is not model:
        name += ", feature maps"
    sums = totals(summarize(model, size))
    _, height, width = content.flows[0].blocks[0].input_shape
    facts = (
        f"{_rounded(sums.parameters)} parameters,  {_rounded(sums.macs)} multiply-accumulates "
        f"for a picture of {height}{parts.TIMES}{width}"
    )
    pen.text(_MARGIN, _MARGIN + 0.12, name, size=17, weight="bold", align="left")
    pen.text(_MARGIN, _MARGIN + 0.44, facts, size=10, color=_FAINT, align="left")


def _draw_foot(pen: _Pen, content: Anatomy, top: float) -> None:
    shown = {
        step.kind
        for flow in content.flows
        for block in flow.blocks
        for step in (*block.lead, *block.steps, *(block.skip or ()))
    }
    x = _MARGIN
    y = top + 0.3
    for kind in _COLORS:
        if kind in shown:
            pen.box(x, y - 0.07, 0.2, 0.14, kind)
            pen.text(x + 0.28, y, kind, size=9, align="left")
            x += 0.28 + 0.068 * len(kind) + 0.3
    if any(block.skip is not None for flow in content.flows for block in flow.blocks):
        pen.line([(x, y), (x + 0.25, y)], _SKIP)
        pen.text(x + 0.33, y, "residual connection", size=9, align="left")
    pen.text(_MARGIN, top + 0.6, content.note, size=9, color=_FAINT, align="left")


def _draw_flow(pen: _Pen, flow: Flow, left: float, top: float) -> None:
    middle = left + (_COLUMN + _SKIP_OFFSET) / 2
    pen.text(middle, top + 0.1, flow.title, size=13, weight="bold")
    y = top + _FLOW_TITLE
    pen.text(middle, y - 0.2, _shape(flow.blocks[0].input_shape), size=9, color=_FAINT)
    for block in flow.blocks:
        pen.arrow(middle, y - 0.1, y + _PANEL_PAD)
        _draw_block(pen, block, left, middle, y)
        y += _block_height(block)
        pen.line([(middle, y - _PANEL_PAD), (middle, y + 0.1)], _INK)
        pen.text(middle, y + 0.22, _shape(block.output_shape), size=9, color=_FAINT)
        y += _BETWEEN


def _draw_block(pen: _Pen, block: Block, left: float, middle: float, top: float) -> None:
    bottom = top + _block_height(block)
    pen.panel(left, top, _COLUMN, bottom - top)
    y = top + _PANEL_PAD
    if block.lead:
        y = _draw_steps(pen, block.lead, middle, y)
        pen.line([(middle, y), (middle, y + _GAP)], _INK)
        y += _GAP
    branch = y + _BRANCH / 2
    if block.skip is not None:
        pen.line([(middle, y - 0.02), (middle, y + _BRANCH)], _INK)
        y += _BRANCH
    y = _draw_steps(pen, block.steps, middle, y)
    if block.skip is not None:
        plus = y + _PLUS_ROOM - _PLUS_RADIUS - 0.02
        x = middle - _BOX_WIDTH / 2 - _SKIP_OFFSET
        pen.line([(middle, y), (middle, plus)], _INK)
        pen.line([(middle, branch), (x, branch), (x, plus), (middle - _PLUS_RADIUS, plus)], _SKIP)
        pen.plus(middle, plus)
        pen.line([(middle, plus + _PLUS_RADIUS), (middle, bottom - _PANEL_PAD)], _INK)
        label = ", ".join(step.text for step in block.skip)
        if label:
            pen.upright_box(x, (branch + plus) / 2, label, block.skip[0].kind)
    if block.repeats > 1:
        pen.pill(left + _COLUMN - 0.36, bottom, f"{parts.TIMES} {block.repeats}")


def _draw_steps(pen: _Pen, steps: Sequence[Step], middle: float, top: float) -> float:
    """Boxes from `top` downwards; returns where the last one ends."""
    y = top
    for index, step in enumerate(steps):
        if index:
            pen.line([(middle, y), (middle, y + _GAP)], _INK)
            y += _GAP
        height = _box_height(step)
        pen.box(middle - _BOX_WIDTH / 2, y, _BOX_WIDTH, height, step.kind)
        line = y + (_BOX - 0.03 if step.detail else height) / 2
        pen.text(middle, line, step.text, size=8 if height < _BOX else 9.5)
        if step.detail:
            pen.text(middle, y + height - 0.12, step.detail, size=7.5)
        y += height
    return y


def _flow_height(flow: Flow) -> float:
    return _FLOW_TITLE + sum(_block_height(block) + _BETWEEN for block in flow.blocks)


def _block_height(block: Block) -> float:
    height = 2 * _PANEL_PAD + _steps_height(block.steps)
    if block.lead:
        height += _steps_height(block.lead) + _GAP
    if block.skip is not None:
        height += _BRANCH + _PLUS_ROOM
    return height


def _steps_height(steps: Sequence[Step]) -> float:
    return sum(map(_box_height, steps)) + _GAP * (len(steps) - 1)


def _box_height(step: Step) -> float:
    if step.detail:
        return _TALL_BOX
    return _THIN_BOX if step.kind in (parts.ACTIVATION, parts.NORMALIZATION) else _BOX


def _shape(shape: tuple[int, ...]) -> str:
    channels, *sides = shape
    return (
        f"{parts.TIMES.join(map(str, sides))} {parts.TIMES} {channels}" if sides else f"{channels}"
    )


def _rounded(number: int) -> str:
    """A count in three figures: 22.9 million, 8.36 billion."""
    for unit, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= unit:
            return f"{number / unit:.3g} {word}"
    return str(number)


@dataclass
class _Pen:
    """The few shapes that the figure is made of; coordinates in inches."""

    axes: Axes

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        color: str = _INK,
        weight: str = "normal",
        align: str = "center",
        rotation: float = 0,
    ) -> None:
        self.axes.text(
            x, y, text, fontsize=size, color=color, fontweight=weight, ha=align,
            va="center_baseline" if not rotation else "center", rotation=rotation, zorder=5,
        )  # fmt: skip

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        fill, edge = _COLORS[kind]
        self._rounded(x, y, width, height, 0.05, fill, edge, zorder=3)

    def panel(self, x: float, y: float, width: float, height: float) -> None:
        self._rounded(x, y, width, height, 0.1, _PANEL, _PANEL_EDGE, zorder=0)

    def pill(self, x: float, y: float, text: str) -> None:
        self._rounded(x - 0.27, y - 0.13, 0.54, 0.26, 0.13, _INK, _INK, zorder=3)
        self.text(x, y, text, size=10, color="white", weight="bold")

    def upright_box(self, x: float, y: float, text: str, kind: str) -> None:
        """A box on an upright line, its text read from below."""
        length = 0.2 + 0.058 * len(text)
        self.box(x - 0.11, y - length / 2, 0.22, length, kind)
        self.text(x, y, text, size=8, rotation=90)

    def plus(self, x: float, y: float) -> None:
        from matplotlib.patches import Circle

        circle = Circle(
            (x, y), _PLUS_RADIUS, facecolor="white", edgecolor=_SKIP, linewidth=1.2, zorder=4
        )
        self.axes.add_patch(circle)
        reach = 0.6 * _PLUS_RADIUS
        for ends in ([(x - reach, y), (x + reach, y)], [(x, y - reach), (x, y + reach)]):
            self.line(ends, _SKIP, zorder=5)

    def line(self, points: Sequence[tuple[float, float]], color: str, zorder: float = 2) -> None:
        xs, ys = zip(*points)
        self.axes.plot(xs, ys, color=color, linewidth=1.3, solid_joinstyle="round", zorder=zorder)

    def arrow(self, x: float, top: float, bottom: float) -> None:
        self.axes.annotate(
            "",
            (x, bottom),
            (x, top),
            arrowprops={
                "arrowstyle": "-|>", "color": _INK, "linewidth": 1.3, "mutation_scale": 9,
                "shrinkA": 0, "shrinkB": 0,
            },
            zorder=2,
        )  # fmt: skip

    def _rounded(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        radius: float,
        fill: str,
        edge: str,
        zorder: float,
    ) -> None:
        from matplotlib.patches import FancyBboxPatch

        self.axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle=f"round,pad=0,rounding_size={radius}",
                facecolor=fill, edgecolor=edge, linewidth=0.9, zorder=zorder,
            )
        )  # fmt: skip
