"""The figure is drawn, in the format asked for, without touching pyplot; nothing is cut off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from xception.models import create_model
from xception.models.diagram import draw_diagram

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("xception", {"output_stride": 8, "intermediate_activation": "relu"}),
        ("xception71", {}),
        ("xception41p", {"output_stride": 16}),
        ("xception_tiny", {"segments": 4, "fc_units": (4096, 4096), "dropout": 0.5}),
        ("xception_small", {"residual": False, "features_only": True}),
        ("xception_tiny", {"head_layers": ["linear 1048576", "batchnorm 0.001 0.1", "gelu"] * 5}),
        ("mini_xception", {"dropout": 0.5}),
    ],
)
def test_every_text_lies_inside_its_column(
    name: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    original = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: drawn.append(self) or original(self, *a, **k)
    )
    with torch.device("meta"):
        model = create_model(name, num_classes=10, **arguments)
    path = tmp_path / "figure.png"
    draw_diagram(model, path)
    assert path.read_bytes().startswith(b"\x89PNG")

    (figure,) = drawn
    (axes,) = figure.axes
    figure.set_dpi(160)
    to_inches = axes.transData.inverted()
    boxes = [p.get_window_extent().transformed(to_inches) for p in axes.patches]
    for text in axes.texts:
        if not text.get_text():
            continue
        extent = text.get_window_extent().transformed(to_inches)
        left, right = sorted((extent.x0, extent.x1))
        assert left >= 0 and right <= axes.get_xlim()[1], text.get_text()
        x, y = text.get_position()
        around = [b for b in boxes if b.x0 <= x <= b.x1 and min(b.y0, b.y1) <= y <= max(b.y0, b.y1)]
        if around:  # a box's text stays within the narrowest box around it
            box = min(around, key=lambda b: abs(b.width * b.height))
            assert left >= box.x0 and right <= box.x1, text.get_text()


@pytest.mark.parametrize("ending, start", [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_other_formats(ending: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{ending}"
    draw_diagram(create_model("xception_tiny"), path, size=(40, 64))
    assert path.read_bytes().startswith(start)


def test_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="xyz"):
        draw_diagram(create_model("xception_tiny"), tmp_path / "figure.xyz")


def test_importing_does_not_import_matplotlib() -> None:
    code = "import sys, xception.models.diagram; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from xception.models import create_model; "
        "from xception.models.diagram import draw_diagram; "
        f"draw_diagram(create_model('xception_tiny'), {str(tmp_path / 'a.png')!r}); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
