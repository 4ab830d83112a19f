"""Predictions as a table for people, and as JSON lines or CSV for machines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from xception.cli.screen import pictures, plain_table, progress_bar, say, screen, shown, shown_path

if TYPE_CHECKING:
    from xception.inference import Prediction

Form = Literal["table", "json", "csv"]
DIGITS = 6  # decimals of probabilities; float32 holds no more
GAPS = 16  # columns between those of the table, and the probability


@dataclass
class Tally:
    """Writes predictions in one form or another, and counts those that failed on the way."""

    count: int = 0
    failed: list[Prediction] = field(default_factory=list)

    def write(
        self, predictions: Iterable[Prediction], form: Form, file: TextIO, top_k: int
    ) -> None:
        """`file` is standard output for a table."""
        counted = self._counted(predictions)
        if form == "json":
            write_json_lines(counted, file)
        elif form == "csv":
            write_csv(counted, file, top_k)
        else:
            with progress_bar("predicting") as progress:
                rows = []
                for row in counted:
                    rows.append(row)
                    progress(len(rows), None)
            show_table(rows, screen())
            for prediction in self.failed:
                say(f"skipped {prediction.name}: {prediction.error}")

    def report(self) -> None:
        """Say on stderr how many could not be read, if any."""
        if self.failed:
            say(f"{len(self.failed):,} of {pictures(self.count)} could not be read")

    def _counted(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            self.count += 1
            if prediction.error is not None:
                self.failed.append(prediction)
            yield prediction


def write_json_lines(predictions: Iterable[Prediction], file: TextIO) -> None:
    """One object a line, with the fields of `Prediction`, as soon as it is known."""
    for prediction in predictions:
        row = asdict(prediction)
        row["probabilities"] = [round(p, DIGITS) for p in prediction.probabilities]
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_csv(predictions: Iterable[Prediction], file: TextIO, top_k: int) -> None:
    """One row a picture: name, label, probability, label_2, probability_2, ..., error."""
    ranks = ["", *(f"_{rank}" for rank in range(2, top_k + 1))]
    columns = [f"{column}{rank}" for rank in ranks for column in ("label", "probability")]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["name", *columns, "error"])
    for prediction in predictions:
        pairs = zip(prediction.labels, prediction.probabilities)
        values: list[object] = [value for label, p in pairs for value in (label, round(p, DIGITS))]
        padding = [""] * (len(columns) - len(values))
        writer.writerow([prediction.name, *values, *padding, prediction.error or ""])


def show_table(predictions: Sequence[Prediction], console: Console) -> None:
    """A row for each picture that could be read: its best class, and the next ones that fit."""
    read = [prediction for prediction in predictions if prediction.error is None]
    if not read:
        return
    labels = [[shown(label) for label in prediction.labels] for prediction in read]
    names = [shown_path(prediction.name, max(16, console.width // 2 - 8)) for prediction in read]
    label_width = min(max(cell_len(row[0]) for row in labels), console.width // 4)
    taken = max(map(cell_len, names)) + label_width + GAPS
    table = plain_table()
    table.add_column("picture", no_wrap=True)
    table.add_column("prediction", overflow="fold", style="bold", min_width=label_width)
    table.add_column("", justify="right", no_wrap=True)
    with_next = any(len(row) > 1 for row in labels)
    if with_next:
        table.add_column("next", no_wrap=True, style="dim")
    for prediction, name, row in zip(read, names, labels):
        shares = [percent(p) for p in prediction.probabilities]
        cells = [name, row[0], shares[0]]
        if with_next:
            cells.append(_fitting(row[1:], shares[1:], console.width - taken))
        table.add_row(*map(Text, cells))
    console.print(table)


def _fitting(labels: Sequence[str], shares: Sequence[str], width: int) -> str:
    """As many as go into `width` columns, none that are nearly 0: "Shirt 12.7%, Coat 4.3%"."""
    text = ""
    for label, share in zip(labels, shares):
        longer = f"{text}, {label} {share}" if text else f"{label} {share}"
        if share == "0.0%" or cell_len(longer) > width:
            break
        text = longer
    return text


def percent(share: float) -> str:
    """0.9731 as "97.3%"; never "100.0%" for what is not certain."""
    text = f"{100 * share:.1f}%"
    return ">99.9%" if text == "100.0%" and share < 1 else text
