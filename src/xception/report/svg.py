"""A matplotlib figure as inline SVG that takes the page's colours and font."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING

from markupsafe import Markup

from xception.report.style import POINTS_PER_INCH, ROLES, plot_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def inline_svg(figure: Figure, *, name: str, description: str) -> Markup:
    """`figure` as an `<svg>` element whose colours are the CSS variables of `style.ROLES`.

    `name` keeps the ids of several plots on one page apart; `description` is read out by screen
    readers. Labels in the figure are escaped: matplotlib writes them as XML text and the tree that
    is serialized here was parsed from it.
    """
    import matplotlib

    buffer = io.StringIO()
    with plot_style():
        matplotlib.rcParams["svg.hashsalt"] = name  # the same figure gives the same ids
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # The style element would reach every element of the page that the SVG stands in.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        if element.tag == f"{{{_SVG}}}g":
            element.attrib.pop("id", None)  # "axes_1" and the like: the same in every plot
        if element.tag != f"{{{_SVG}}}text":
            element.text = None  # indentation
        element.tail = None
        style = element.get("style")
        if style is not None:
            element.set("style", _COLOUR.sub(_page_colour, style))
    width, height = figure.get_size_inches() * POINTS_PER_INCH
    root.attrib.clear()
    root.set("viewBox", f"0 0 {width:g} {height:g}")
    root.set("role", "img")
    root.set("aria-label", description)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _page_colour(match: re.Match[str]) -> str:
    role = ROLES.get(match[0])
    return f"var({role})" if role else match[0]
