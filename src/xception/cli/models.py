"""`xception models`: list the networks, or the weights that are published for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xception.cli.arguments import Switch, parse

if TYPE_CHECKING:
    from xception.weights.published import PublishedFile, PublishedWeights

DESCRIPTION = """List the networks that --model knows.

The parameters are counted at 1000 classes. `xception info NAME` shows one
layer by layer.

With --pretrained, list the ImageNet weights that others have published. Their
names stand wherever a model file can stand: the file is downloaded once,
compared with its checksums, and kept."""

NUM_CLASSES = 1000


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # list published weights: address, licence, preprocessing, checksums
    pretrained: Switch = False
    # a list of JSON objects with what the table and the lines below it show
    json: Switch = False


def run(argv: Sequence[str]) -> int:
    """List them; always 0."""
    arguments = parse(Arguments, "models", DESCRIPTION, argv)
    if arguments.pretrained:
        from xception.weights.published import published_weights

        entries = published_weights()
        if arguments.json:
            _print_json([_plain(entry) for entry in entries])
        else:
            _show_published(entries)
        return 0
    from xception.models import list_models

    rows = [_row(name) for name in list_models()]
    if arguments.json:
        _print_json([asdict(row) for row in rows])
    else:
        _show(rows)
    return 0


def _print_json(content: list[dict[str, Any]]) -> None:
    import json

    print(json.dumps(content, indent=2))


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


def _plain(entry: PublishedWeights) -> dict[str, Any]:
    """In JSON's types; top1 a share, sizes in bytes, sha256 null where only a part is known."""
    files = [{**asdict(file), "sha256": file.sha256} for file in entry.files]
    return {**asdict(entry), "files": files, "preprocessing": entry.preprocessing.to_dict()}


def _show_published(entries: Sequence[PublishedWeights]) -> None:
    """A table to choose from, and then what is to be known of each."""
    from xception.cli.screen import plain_table, screen

    table = plain_table()
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("network", no_wrap=True)
    table.add_column("classes", justify="right", no_wrap=True)
    table.add_column("top-1", justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    for entry in entries:
        top1 = "" if entry.top1 is None else _percent(entry.top1)
        table.add_row(entry.name, entry.network, str(entry.num_classes), top1, entry.licence)
    console = screen()
    console.print(table)
    for entry in entries:
        console.print(f"\n{entry.name}", style="bold")
        for what, value in _details(entry):
            # unwrapped, so that addresses and checksums can be copied
            console.print(f"  {what:<14}{value}", soft_wrap=True)


def _details(entry: PublishedWeights) -> list[tuple[str, str]]:
    from xception.cli.layers import preparation

    details = [("publisher", entry.publisher)]
    if entry.aliases:
        details.append(("also called", ", ".join(entry.aliases)))
    for file in entry.files:
        details += _details_of_file(file)
    details.append(("preprocessing", preparation(entry.preprocessing)))
    if entry.top1 is not None:
        details.append(("top-1", f"{_percent(entry.top1)}, by {entry.top1_source}"))
    if entry.note:
        details.append(("note", entry.note))
    return details


def _percent(share: float) -> str:
    """With the digits that its source gives, and no others."""
    return f"{100 * share:.6g}%"


def _details_of_file(file: PublishedFile) -> list[tuple[str, str]]:
    size = "" if file.file_bytes is None else f" ({file.file_bytes:,} bytes)"
    details = [("address", f"{file.address}{size}")]
    details += [("checksum", f"{checksum}, {checksum.evidence}") for checksum in file.checksums]
    if file.is_on_hub and file.sha256 is None:
        details.append(("checksum", "the SHA-256 that the hub states when it is downloaded"))
    return details
