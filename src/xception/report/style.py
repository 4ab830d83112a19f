"""How the plots look: a palette for every eye, colour-blind ones too, and matplotlib's settings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

# Blue and orange keep their distance under every common colour blindness; lines differ in dash too.
# Each colour is used for one role alone, so that a page can put its own in its place (svg.py).
INK = "#1c2127"
MUTED = "#5b6470"
RULE = "#dcdad4"
RIGHT = "#1f6fb5"
WRONG = "#b85208"
FILL_RIGHT = "#1a5f9e"  # behind text, at any opacity
FILL_WRONG = "#a84a06"
ON_PALE = "#000001"  # text on a fill of little opacity, and on a strong one
ON_STRONG = "#fffffe"
ROLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    RIGHT: "--right",
    WRONG: "--wrong",
    FILL_RIGHT: "--fill-right",
    FILL_WRONG: "--fill-wrong",
    ON_PALE: "--on-pale",
    ON_STRONG: "--on-strong",
}
# For raster images, which a page cannot recolour: in the middle between light and dark paper.
RASTER_RIGHT = (0x2F, 0x80, 0xD0)
RASTER_WRONG = (0xE0, 0x78, 0x18)

POINTS_PER_INCH = 72.0  # so one unit of an SVG that matplotlib writes is one CSS pixel


def _font_families() -> list[str]:
    """DejaVu Sans (comes with matplotlib), then whatever the machine has for other scripts."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    wanted = (
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Hiragino Sans",
        "PingFang SC",
        "Microsoft YaHei",
        "Malgun Gothic",
        "Arial Unicode MS",
    )
    return ["DejaVu Sans", *(name for name in wanted if name in installed)]


@contextlib.contextmanager
def plot_style() -> Iterator[None]:
    """matplotlib's defaults and ours, whatever a user's matplotlibrc says; restored afterwards."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no font here has
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "text.parse_math": False,  # a class called "$x" is a name, not a formula
                "font.family": _font_families(),
                "font.size": 10.5,
                "text.color": INK,
                "axes.titlecolor": INK,
                "axes.titlesize": 11.5,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.labelcolor": MUTED,
                "axes.labelsize": 10.5,
                "axes.edgecolor": RULE,
                "axes.facecolor": "none",
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.spines.left": False,
                "figure.facecolor": "none",
                "grid.color": RULE,
                "grid.linewidth": 0.8,
                "legend.frameon": False,
                "legend.fontsize": 10.5,
                "lines.linewidth": 1.8,
                "xtick.color": RULE,
                "xtick.labelcolor": MUTED,
                "ytick.color": RULE,
                "ytick.labelcolor": MUTED,
                "ytick.major.size": 0,
                "svg.fonttype": "none",  # real text: in the page's own font, and selectable
                "image.interpolation": "none",
            }
        )
        yield
