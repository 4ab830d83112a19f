"""The learning-rate range test: a short run whose learning rate grows from step to step.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3, with a
geometric growth, which looks at all orders of magnitude alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xception.data import Loader
from xception.errors import DataError
from xception.training.losses import make_loss
from xception.training.optim import set_learning_rate
from xception.training.recipe import Recipe
from xception.training.runtime import Runtime
from xception.training.setup import (
    adapted,
    choose_workers,
    make_model,
    open_inputs,
    preprocessing_for,
    with_model,
    with_whole_paths,
)
from xception.training.state import TrainingState
from xception.training.step import Step
from xception.weights import load

SMOOTHING = 0.9  # of the running mean that decides where the loss is steepest, and lost
LOST = 2.0  # a smoothed loss so many times the least one ends the test
MARGIN = 10.0  # below the rate with the least loss lies the one to begin with


@dataclass(frozen=True, slots=True)
class LrRange:
    """What the test has found.

    rates, losses: of every step; losses in nats, before the step. smoothed: their running mean
    lowest: the rate at which the running mean was least
    suggested: a tenth of it, the highest rate to train with
    diverged: whether the loss was lost before the last rate; if not, higher ones may do as well
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    lowest: float
    suggested: float
    diverged: bool


def lr_range(
    recipe: Recipe,
    *,
    steps: int = 100,
    first: float = 1e-5,
    last: float = 10.0,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LrRange:
    """Train by `recipe`, all but its learning rate, from `first` to `last`; nothing is written.

    steps: of the whole range, at least 10; the data are gone through again where they are few
    Raises DataError, RecipeError, UsageError as `train` does, ValueError for a range that is none.
    """
    if not 0 < first < last or steps < 10:
        raise ValueError(f"the range must rise over 10 steps or more, got {first}, {last}, {steps}")
    recipe = with_whole_paths(recipe)
    runtime = Runtime(recipe)
    source = load(recipe.weights) if recipe.weights is not None else None
    recipe = with_model(recipe, source)
    preprocessing = preprocessing_for(recipe, source)
    inputs = open_inputs(recipe, preprocessing)
    recipe = adapted(recipe, len(inputs.train), say)
    model = make_model(recipe, preprocessing, inputs.classes, source, say)
    state = TrainingState(runtime.place(model), recipe, runtime.scaler)
    state.set_frozen(False)
    loss = make_loss(recipe, inputs.train.samples.labels, len(inputs.classes))
    step = Step(
        runtime.network(state.model), state.optimizer, loss.to(runtime.device), recipe, runtime
    )
    loader = Loader(
        inputs.train,
        recipe.batch_size,
        shuffle_seed=recipe.seed,
        workers=choose_workers(recipe, inputs.train),
        drop_last=len(inputs.train) >= recipe.batch_size,
        balanced=recipe.sampling == "balanced",
    )
    rates: list[float] = []
    losses: list[float] = []
    try:
        epoch = 0
        while len(rates) < steps and not _is_lost(_smoothed(losses)):
            before = len(rates)
            for batch in loader.epoch(epoch):
                if len(rates) >= steps or _is_lost(_smoothed(losses)):
                    break
                usable = step.usable(len(batch.y))
                if usable == 0:
                    continue
                rate = first * (last / first) ** (len(rates) / (steps - 1))
                set_learning_rate(state.optimizer, rate)
                x = runtime.to_device(batch.x[:usable])
                total, _ = step(x, runtime.to_device(batch.y[:usable]), usable)
                rates.append(rate)
                losses.append(float(total) / usable)
                progress(len(rates), steps)
            if len(rates) == before:
                raise DataError(f"no picture of {recipe.data} could be used")
            epoch += 1
    finally:
        loader.close()
    smoothed = _smoothed(losses)
    finite = [value if math.isfinite(value) else math.inf for value in smoothed]
    lowest = rates[finite.index(min(finite))]
    return LrRange(rates, losses, smoothed, lowest, lowest / MARGIN, _is_lost(smoothed))


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Running means without the pull of a beginning at zero (Kingma and Ba 2015, section 3)."""
    found, mean = [], 0.0
    for number, value in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        found.append(mean / (1 - SMOOTHING**number))
    return found


def _is_lost(smoothed: Sequence[float]) -> bool:
    if not smoothed:
        return False
    return not math.isfinite(smoothed[-1]) or smoothed[-1] > LOST * min(smoothed)
