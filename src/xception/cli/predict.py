"""`xception predict MODEL PATH...`: name what is on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TextIO

import tyro

from xception.cli.arguments import Device, Model, Runtime, Switch, parse, unset, word
from xception.cli.output import write_text
from xception.errors import UsageError

DESCRIPTION = """Name what is on pictures.

PATH is a picture, a folder (searched through), a pattern such as
'holiday/**/*.jpg', or - for a list of paths on standard input, one a line. A
picture that cannot be read is reported and the rest go on; the exit code is
then 1, and 0 where all could be read.

The result is a table. --json gives one object a line as soon as it is known,
with the fields name, labels, probabilities, error; --csv gives one row a
picture."""

Form = Literal["table", "json", "csv"]
ENDINGS: dict[str, Form] = {".jsonl": "json", ".csv": "csv"}


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # model file, run folder, weights of Keras or timm, or a published name
    model: Model
    # pictures, folders, patterns, or -
    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, word("PATH [PATH ...]", "(one or more)")
    ]
    # most probable classes to give for each picture
    top_k: int = 5
    # one JSON object a line
    json: Switch = False
    # comma-separated values
    csv: Switch = False
    # where to write; a name that ends in .jsonl or .csv stands for --json or --csv
    out: Annotated[Path | None, unset("FILE", "the screen")] = None
    # pictures that go through the network at once
    batch_size: int = 32
    # cpu, cuda, cuda:1, mps
    device: Device = None
    # what runs the network; auto measures, where the work is long enough
    runtime: Runtime = "auto"


def run(argv: Sequence[str]) -> int:
    """Predict and write; 1 if any picture could not be read."""
    arguments = parse(Arguments, "predict", DESCRIPTION, argv)
    form = _form(arguments)
    from xception.cli.paths import find_pictures
    from xception.cli.predictions import Tally

    pictures = find_pictures(arguments.paths)
    tally = Tally()

    def predict(file: TextIO) -> None:
        from xception.cli.road import tell
        from xception.inference import Predictor
        from xception.ops import tune_allocator

        tune_allocator()
        predictor = Predictor(
            arguments.model,
            device=arguments.device,
            batch_size=arguments.batch_size,
            runtime=arguments.runtime,
            on_road=tell,
        )
        top_k = min(arguments.top_k, len(predictor.classes))
        tally.write(predictor.predict_iter(pictures, top_k), form, file, top_k)

    write_text(arguments.out, predict)
    tally.report()
    return 1 if tally.failed else 0


def _form(arguments: Arguments) -> Form:
    if arguments.top_k < 1:
        raise UsageError(f"--top-k must be at least 1, got {arguments.top_k}")
    if arguments.json and arguments.csv:
        raise UsageError("give one of --json and --csv")
    if arguments.json:
        return "json"
    if arguments.csv:
        return "csv"
    if arguments.out is None:
        return "table"
    ending = arguments.out.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(
            f"in which form should {arguments.out} be written? give --json (an object a line) or "
            f"--csv, or a name that ends in {' or '.join(ENDINGS)}"
        )
    return ENDINGS[ending]
