"""`train(recipe)`: a run from its recipe, or from where it was left.

from xception import Recipe, train
result = train(Recipe.preset("small", data="pictures/"))
train(resume="runs/xception_tiny-pictures-1")
"""

from __future__ import annotations

from pathlib import Path

from xception.errors import DataError, RecipeError, TrainingError, UsageError, XceptionError
from xception.models import Classifier, Preprocessing
from xception.processes import Processes
from xception.training.checkpoint import load_checkpoint
from xception.training.progress import Progress
from xception.training.recipe import Recipe
from xception.training.run import Run, TrainResult
from xception.training.run_folder import RunFolder
from xception.training.runtime import Runtime, missing_trackers
from xception.training.setup import (
    Inputs,
    adapted,
    check_shares,
    make_model,
    open_inputs,
    preprocessing_for,
    rebuilt_model,
    seed_process,
    with_model,
    with_whole_paths,
)
from xception.training.state import TrainingState
from xception.weights import load


def train(
    recipe: Recipe | None = None,
    *,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train by `recipe` in a new run folder, or go on with the run folder `resume`.

    Ctrl-C (SIGINT) or SIGTERM ends the current step, saves, and returns with `interrupted`. On a
    CPU a resumed run gives bit for bit the weights of an uninterrupted one on the same machine
    with as many threads and processes.

    Several processes that torchrun or `accelerate launch` started train one network: each computes
    its share of every batch, the first one writes and reports. All of them return the same. What
    torchrun starts again (`--max-restarts`) goes on from the last checkpoint.
    Raises DataError, RecipeError, UsageError before anything is written; TrainingError when the
    run has to stop (the last checkpoint stands then).
    """
    processes = Processes.started()
    progress = (progress if processes.is_first else None) or Progress()
    try:
        if resume is not None:
            return _resumed(RunFolder.open(resume), processes, progress).go()
        recipe = with_whole_paths(recipe or Recipe())
        for name in missing_trackers(recipe):
            raise UsageError(
                f"tracker {name} is not installed; run pip install {name}, or leave it out of "
                "--trackers"
            )
        runtime = Runtime(recipe, processes)
        before = processes.first_does(lambda: _begun_before(recipe, processes))
        if before is not None:
            progress.say(f"started again: going on with {before}")
            return _resumed(RunFolder.open(before), processes, progress).go()
        run = _begun(recipe, runtime, progress)
        try:
            return run.go()
        except XceptionError:
            if processes.is_first:
                run.folder.discard()
            raise
    finally:
        processes.leave()


def _begun_before(recipe: Recipe, processes: Processes) -> str | None:
    """The run of this command line that torchrun has started again, since a process had died."""
    if processes.launch is None:
        return None
    folder = RunFolder.of_launch(recipe.out, processes.launch)
    return None if folder is None else str(folder.path)


def _begun(recipe: Recipe, runtime: Runtime, progress: Progress) -> Run:
    """A new run, in a folder of its own."""
    processes = runtime.processes
    source = None
    if recipe.weights is not None:
        source = _loaded(recipe.weights, processes)
    if source is None and (recipe.freeze_epochs > 0 or recipe.freeze_norm):
        raise RecipeError(
            f"recipe fields freeze_epochs and freeze_norm are {recipe.freeze_epochs} and "
            f"{recipe.freeze_norm}, but there are no weights that could be kept; give --weights "
            "MODEL, or --freeze-epochs 0 --no-freeze-norm"
        )
    recipe = with_model(recipe, source)
    preprocessing = preprocessing_for(recipe, source)
    inputs = open_inputs(recipe, preprocessing)
    if recipe.patience is not None and inputs.validation is None:
        raise RecipeError(
            "recipe field patience needs validation pictures; give --val-fraction 0.1, or data "
            "with a split val"
        )
    _check_same_pictures(recipe, inputs, processes)
    recipe = adapted(recipe, len(inputs.train), progress.say, processes.count)
    check_shares(recipe, processes.count, len(inputs.train))
    model = runtime.place(make_model(recipe, preprocessing, inputs.classes, source, progress.say))
    processes.copy_from_first(model)  # processors of other kinds draw other first weights
    state = TrainingState(model, recipe, runtime.scaler)
    seed_process(recipe.seed, processes)
    folder = RunFolder(Path(processes.first_does(lambda: _new_folder(recipe, runtime))))
    try:
        return Run(recipe, runtime, inputs, state, folder, progress)
    except XceptionError:
        if processes.is_first:
            folder.discard()
        raise


def _loaded(weights: str, processes: Processes) -> Classifier:
    """The first process fetches what comes from far away; the others find it on their disks."""
    own: list[Classifier] = []
    processes.first_does(lambda: own.append(load(weights)))
    return own[0] if own else load(weights)


def _new_folder(recipe: Recipe, runtime: Runtime) -> str:
    folder = RunFolder.create(recipe)
    processes = runtime.processes
    folder.write_environment(str(runtime.device), processes.count, processes.launch)
    return str(folder.path)


def _check_same_pictures(recipe: Recipe, inputs: Inputs, processes: Processes) -> None:
    if len(set(processes.gathered(inputs.digest()))) > 1:
        raise DataError(
            f"the processes find other pictures in {recipe.data}; it has to be the same on every "
            "machine"
        )


def _resumed(folder: RunFolder, processes: Processes, progress: Progress) -> Run:
    """The run of `folder` as its last checkpoint left it."""
    checkpoint = load_checkpoint(folder.last)
    try:
        recipe = Recipe.from_dict(checkpoint["recipe"], str(folder.last))
        preprocessing = Preprocessing.from_dict(checkpoint["preprocessing"])
        architecture, digest = checkpoint["architecture"], checkpoint["data"]
        arguments, place = dict(architecture["args"]), dict(checkpoint["position"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"checkpoint {folder.last} is damaged: {error!r}") from None
    runtime = Runtime(recipe, processes)
    if folder.read_recipe() != recipe:
        progress.warn(f"{folder.recipe} was changed; the run goes on by the recipe it began with")
    for name in missing_trackers(recipe):
        progress.warn(f"tracker {name} is not installed here; going on without it")
    inputs = open_inputs(recipe, preprocessing)
    if inputs.digest() != digest:
        raise TrainingError(
            f"the pictures of {recipe.data} are not those that run {folder.path} began with; "
            "restore them to resume, or start a new run from its model with --weights"
        )
    check_shares(recipe, processes.count, len(inputs.train))
    if len(set(map(str, processes.gathered((place.get("step"), place.get("epoch")))))) > 1:
        raise TrainingError(
            f"the processes find other states of the run in {folder.last}; resume from a folder "
            "that all machines see"
        )
    model = rebuilt_model(architecture["name"], arguments, preprocessing, inputs.classes, recipe)
    state = TrainingState(runtime.place(model), recipe, runtime.scaler)
    state.restore(checkpoint, processes, progress.warn)
    processes.first_does(lambda: folder.keep_metrics_before(state.position.epoch))
    return Run(recipe, runtime, inputs, state, folder, progress)
