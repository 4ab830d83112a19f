"""The layers of a network, and what a model file says of itself, for terminals and machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from xception.cli.screen import plain_table, screen, shown

if TYPE_CHECKING:
    from xception.models import Classifier, Preprocessing
    from xception.models.summary import LayerRow
    from xception.weights import ModelDescription

MAX_CLASSES = 12  # names of classes shown
WIDE = 96  # columns of a terminal, from which on the types of the layers are shown


def layers_as_json(model: Classifier, rows: Sequence[LayerRow]) -> str:
    """One object: architecture, preprocessing, layers, parameters, macs."""
    from xception.models.summary import totals

    content = {
        "architecture": model.architecture,
        "class_names": model.class_names,
        "preprocessing": model.preprocessing.to_dict(),
        "layers": [asdict(row) for row in rows],
        **asdict(totals(rows)),
    }
    return json.dumps(content, ensure_ascii=False, indent=2)


def show_description(name: str, description: ModelDescription) -> None:
    """Architecture, classes, preprocessing and origin, a line each."""
    architecture, preprocessing = description.architecture, description.preprocessing
    arguments = _origin(architecture["args"])
    values = {
        "network": f"{architecture['name']} ({arguments})",
        "classes": _classes(description.class_names),
        "pictures": preparation(preprocessing),
        **{
            key.replace("_", " "): _origin(value)
            for key, value in description.provenance.items()
            if value is not None
        },
    }
    console = screen()
    console.print(shown(name), style="bold", soft_wrap=True)
    margin = max(map(len, values)) + 2
    for key, value in values.items():
        console.print(f"{shown(key):<{margin}}{shown(value)}", soft_wrap=True)
    console.print()


def preparation(p: Preprocessing) -> str:
    """How a picture becomes the input: "299 x 299 pixels, crop 0.9, bicubic, 3 channels, ..."."""
    height, width = p.size
    resize = f"crop {p.crop_fraction:g}" if p.resize == "crop" else p.resize
    channels = "grey" if p.channels == 1 else f"{p.channels} channels"
    scaling = f"scaled by (x - {_numbers(p.mean)}) / {_numbers(p.std)} of values in 0..1"
    return f"{height} x {width} pixels, {resize}, {p.interpolation}, {channels}, {scaling}"


def _numbers(values: tuple[float, ...]) -> str:
    """One a channel, or one for all where they agree."""
    numbers = [f"{value:g}" for value in values]
    return numbers[0] if len(set(numbers)) == 1 else f"[{', '.join(numbers)}]"


def show_layers(model: Classifier, rows: Sequence[LayerRow], size: int | None) -> None:
    """One row a layer, and the sums."""
    from xception.models.summary import totals

    console = screen()
    table = plain_table()
    table.add_column("layer", overflow="fold")
    with_types = console.width >= WIDE  # else names stay whole, which tell the type well enough
    if with_types:
        table.add_column("type", no_wrap=True, style="dim")
    table.add_column("output", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    for row in rows:
        shape = "x".join(map(str, row.output_shape))
        parameters = f"{row.parameters:,}" if row.parameters else ""
        kind = [row.type] if with_types else []
        table.add_row(Text(row.name), *kind, shape, parameters, _macs(row.macs))
    console.print(table)
    console.print()
    total = totals(rows)
    height, width = (size, size) if size is not None else model.preprocessing.size
    console.print(
        f"{total.parameters:,} parameters, {_macs(total.macs)} multiply-accumulates for a picture "
        f"of {height} x {width} pixels",
        style="bold",
        soft_wrap=True,
    )


def _origin(value: object) -> str:
    """A mapping as "torch 2.14.1, python 3.11.7"; anything else as it is."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return str(value)


def _classes(names: Sequence[str] | None) -> str:
    if names is None:
        return "not named"
    more = len(names) - MAX_CLASSES
    return f"{len(names):,}: {', '.join(names[:MAX_CLASSES])}{f' and {more:,} more' * (more > 0)}"


def _macs(count: int) -> str:
    """8361234567 as "8.36 G"; nothing for 0."""
    if count == 0:
        return ""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return str(count)
