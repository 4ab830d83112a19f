"""`xception models`: list the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from xception.cli.arguments import Switch, parse

DESCRIPTION = """List the networks that --model knows.

The parameters are counted at 1000 classes. `xception info NAME` shows one
layer by layer."""

NUM_CLASSES = 1000


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # a list of JSON objects with name, parameters, size and summary
    json: Switch = False


def run(argv: Sequence[str]) -> int:
    """List them; always 0."""
    arguments = parse(Arguments, "models", DESCRIPTION, argv)
    from xception.models import list_models

    rows = [_row(name) for name in list_models()]
    if arguments.json:
        import json

        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _show(rows)
    return 0


@dataclass(frozen=True)
class _Row:
    name: str
    parameters: int
    size: tuple[int, int]  # height, width in pixels
    summary: str


def _row(name: str) -> _Row:
    import torch

    from xception.models import create_model, model_entry

    with torch.device("meta"):  # counting needs no memory
        model = create_model(name, num_classes=NUM_CLASSES)
    entry = model_entry(name)
    parameters = sum(p.numel() for p in model.parameters())
    return _Row(name, parameters, entry.preprocessing.size, entry.summary)


def _show(rows: Sequence[_Row]) -> None:
    from xception.cli.screen import plain_table, screen

    table = plain_table()
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("pixels", justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        height, width = row.size
        table.add_row(row.name, f"{row.parameters:,}", f"{height}x{width}", row.summary)
    screen().print(table)
