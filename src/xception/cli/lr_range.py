"""`xception lr-range DATA`: which learning rates a network can be trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from xception.cli.arguments import Switch, parse, unset
from xception.cli.output import check_figure
from xception.cli.recipe_words import base_recipe
from xception.errors import UsageError
from xception.training.recipe import Recipe

DESCRIPTION = """Look for the learning rate: a short training in which it grows.

xception lr-range DATA [--preset NAME | --recipe FILE.yaml] [--FIELD VALUE ...]

The fields are those of `xception train`. Nothing is kept but what --plot
draws: the loss over the learning rate, and the rate that the test suggests, a
tenth of the one with the least loss."""


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    # steps from the lowest rate to the highest
    steps: int = 100
    # lowest and highest learning rate
    lowest: float = 1e-5
    highest: float = 10.0
    # picture of the loss over the learning rate, .png or .svg
    plot: Annotated[Path | None, unset("FILE", "write none")] = None
    # rates, losses and what they suggest, as a JSON object
    json: Switch = False


def run(argv: Sequence[str]) -> int:
    """Try, show and draw; always 0."""
    words = list(argv)
    base = base_recipe(words)
    arguments = parse(Arguments, "lr-range", DESCRIPTION, words, default=Arguments(recipe=base))
    check_figure(arguments.plot)
    if not 0 < arguments.lowest < arguments.highest or arguments.steps < 10:
        raise UsageError(
            f"--lowest {arguments.lowest:g} must be above 0 and below --highest "
            f"{arguments.highest:g}, and --steps {arguments.steps} at least 10"
        )
    from xception.ops import tune_allocator

    tune_allocator()
    from xception.cli.screen import progress_bar, say
    from xception.training.lr_range import lr_range

    with progress_bar("trying learning rates") as progress:
        found = lr_range(
            arguments.recipe,
            steps=arguments.steps,
            first=arguments.lowest,
            last=arguments.highest,
            say=say,
            progress=progress,
        )
    if arguments.json:
        import dataclasses
        import json

        print(json.dumps(dataclasses.asdict(found)))
    else:
        print(f"least loss at learning rate {found.lowest:.2g}")
        print(f"--lr {found.suggested:.2g}, a tenth of it, is safe; with --warmup, up to the whole")
        if not found.diverged:
            print("the loss was not lost up to the highest rate; --highest may be raised")
    if arguments.plot is not None:
        from xception.report.plots import save_figure
        from xception.report.rates import plot_rates

        figure = plot_rates(
            found.rates, found.losses, found.smoothed, found.lowest, found.suggested
        )
        save_figure(figure, arguments.plot, "the plot")
        say(f"written: {arguments.plot}")
    return 0
