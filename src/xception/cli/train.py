"""`xception train DATA`: train a classifier on a folder, a table or a named data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from xception.cli.arguments import parse
from xception.cli.recipe_words import base_recipe, taken
from xception.errors import UsageError
from xception.training.recipe import Recipe

DESCRIPTION = """Train a classifier.

xception train DATA [--preset NAME] [--FIELD VALUE ...]   (DATA comes first)
xception train --recipe FILE.yaml [--FIELD VALUE ...]
xception train --resume RUN

NAME is small, demo, fine-tune or paper-imagenet: settings that go together.
DATA is a folder of class folders (with or without train/, val/ and test/), a table (.csv, .tsv,
.parquet with columns path, label), or the name of a data set (fashion-mnist-5k is built in).
Everything is kept in a run folder: recipe, metrics, checkpoints, model.safetensors, report.html.
Ctrl-C saves and stops; --resume goes on from there."""


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    quiet: bool = False  # print nothing but errors


def run(argv: Sequence[str]) -> int:
    """Parse, train, and return the exit code: 0 done, 130 interrupted."""
    words = list(argv)
    resume = taken(words, "--resume")
    if resume is not None:
        unwanted = [word for word in words if word != "--quiet"]
        if unwanted:
            raise UsageError(
                f"--resume goes on by the run's own recipe; leave out {' '.join(unwanted)} (to "
                "train longer, start a new run from its model with --weights)"
            )
        return _train(None, resume, quiet="--quiet" in words)
    base = base_recipe(words)
    arguments = parse(Arguments, "train", DESCRIPTION, words, default=Arguments(recipe=base))
    return _train(arguments.recipe, None, quiet=arguments.quiet)


def _train(recipe: Recipe | None, resume: str | None, *, quiet: bool) -> int:
    from xception.ops import tune_allocator

    tune_allocator()
    from xception.training import Progress, RichProgress, train

    progress = Progress() if quiet else RichProgress()
    result = train(recipe, resume=resume, progress=progress)
    return 130 if result.interrupted else 0
