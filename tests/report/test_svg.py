"""Figures as inline SVG: in the page's colours, with no rule that reaches beyond them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from xception.report.plots import plot_confusion, plot_curves
from xception.report.style import ROLES
from xception.report.svg import inline_svg


def test_svg_takes_the_colours_of_the_page():
    svg = inline_svg(plot_confusion([[3, 1], [0, 4]], ["a", "b"]), name="m", description="d")
    assert not [colour for colour in ROLES if f": {colour}" in svg]
    assert "fill: var(--fill-right)" in svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "<!" not in svg


def test_labels_are_text_and_cannot_leave_it():
    name = "</text><b>#1c2127"  # with a colour of the palette in it, which stays a name
    svg = inline_svg(plot_confusion([[3]], [name]), name="m", description='"><b>')
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == '"><b>'
    assert [element.text for element in root.iter() if element.text == name] == [name] * 2
    assert not [element for element in root.iter() if element.tag.endswith("}b")]


def test_the_same_figure_gives_the_same_svg_and_two_names_share_no_id():
    def draw(name: str) -> str:
        return inline_svg(plot_curves([{"epoch": 1, "lr": 0.1}]), name=name, description="d")

    def ids(svg: str) -> set[str]:
        return {e.get("id", "") for e in ElementTree.fromstring(svg).iter() if e.get("id")}

    assert draw("a") == draw("a")
    assert ids(draw("a"))
    assert not ids(draw("a")) & ids(draw("b"))
