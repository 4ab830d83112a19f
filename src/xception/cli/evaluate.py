"""`xception evaluate MODEL DATA`: measure a model on labelled pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from xception.cli.arguments import Data, Device, Folder, Model, Runtime, Switch, parse, unset
from xception.cli.output import writable_folder, write_text

if TYPE_CHECKING:
    import torch

    from xception.inference import Evaluation
    from xception.processes import Processes

DESCRIPTION = """Measure a model on labelled pictures.

Shown are top-1 and top-5 accuracy, loss, calibration error (how far
probabilities are from the share that is right), and each class. --out FOLDER
keeps it all in evaluation.json and draws the confusion matrix, confusion.png.

DATA is a folder of class folders (with or without train/, val/ and test/), a
table (.csv, .tsv, .parquet with columns path and label), or the name of a
data set. Under torchrun each process measures a share of it."""


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # model file, run folder, weights of Keras or timm, or a published name
    model: Model
    # folder, table or name
    data: Data
    # part of the data to measure on: train, val or test
    split: Annotated[str | None, unset("NAME", "test, else val, else all there is")] = None
    # share of the training pictures that is the val split where the data have none
    val_fraction: Annotated[float | None, unset("FLOAT", "the run's, on its own data")] = None
    # which of them
    seed: Annotated[int | None, unset("INT", "the run's, on its own data")] = None
    # where evaluation.json and confusion.png go; made if missing
    out: Folder = None
    # print what evaluation.json holds instead of tables
    json: Switch = False
    # pictures that go through the network at once
    batch_size: int = 64
    # processes that decode pictures; 0: this one
    workers: int = 0
    # cpu, cuda, cuda:1, mps
    device: Device = None
    # what runs the network; auto measures, where the work is long enough
    runtime: Runtime = "auto"


def run(argv: Sequence[str]) -> int:
    """Measure, show and write; 1 if pictures could not be read."""
    arguments = parse(Arguments, "evaluate", DESCRIPTION, argv)
    folder = None if arguments.out is None else writable_folder(arguments.out)
    from xception.cli.several import together
    from xception.ops import tune_allocator

    tune_allocator()
    with together(arguments.device) as (processes, device):
        evaluation = _evaluated(arguments, processes, device)
        if processes.is_first:
            _write(evaluation, arguments, folder)
    return 1 if evaluation.skipped else 0


def _evaluated(
    arguments: Arguments, processes: Processes, device: str | torch.device | None
) -> Evaluation:
    from xception.cli.road import tell
    from xception.cli.screen import progress_bar, say, shown
    from xception.data import open_data
    from xception.data.wording import path_text
    from xception.inference import evaluate
    from xception.inference.network import as_classifier
    from xception.training import split_of_run

    seed, val_fraction = split_of_run(arguments.model, arguments.data) or (0, 0.0)
    model = as_classifier(arguments.model, device)
    source = open_data(
        arguments.data,
        seed=seed if arguments.seed is None else arguments.seed,
        val_fraction=val_fraction if arguments.val_fraction is None else arguments.val_fraction,
        classes=model.class_names,
        strict=False,
    )
    is_unnamed = model.class_names is None and model.num_classes == len(source.classes)
    if is_unnamed and processes.is_first:
        shown_classes = ", ".join(f"{i} = {shown(n)}" for i, n in enumerate(source.classes[:12]))
        say(
            f"note: the model names no classes: taken in the order of the data ({shown_classes}"
            f"{', ...' if len(source.classes) > 12 else ''})"
        )
    with progress_bar("evaluating") as progress:
        evaluation = evaluate(
            model,
            source,
            split=arguments.split,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            progress=progress if processes.is_first else None,
            runtime=arguments.runtime,
            on_road=tell if processes.is_first else None,
            processes=processes,
        )
    return dataclasses.replace(evaluation, model=path_text(arguments.model))


def _write(evaluation: Evaluation, arguments: Arguments, folder: Path | None) -> None:
    import json

    from xception.cli.evaluation import show_evaluation
    from xception.cli.screen import say

    text = json.dumps(evaluation.to_dict(), ensure_ascii=False)
    if arguments.json:
        print(text)
    else:
        show_evaluation(evaluation, arguments.data)
    if folder is not None:
        from xception.report import confusion_png

        write_text(folder / "evaluation.json", lambda file: print(text, file=file))
        confusion_png(evaluation.to_dict(), folder / "confusion.png")
        say(f"written: {folder / 'evaluation.json'}, {folder / 'confusion.png'}")
