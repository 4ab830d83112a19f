"""The end of a run: the model file, the evaluation, the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xception.inference import evaluate
from xception.models import Classifier
from xception.report import write_report
from xception.training.checkpoint import load_checkpoint
from xception.training.progress import Progress
from xception.training.recipe import Recipe
from xception.training.run_folder import RunFolder
from xception.training.setup import Inputs, choose_workers
from xception.training.state import TrainingState
from xception.weights import save


def write_model(state: TrainingState, recipe: Recipe, inputs: Inputs, folder: RunFolder) -> None:
    """The averaged weights as a model file that needs nothing else."""
    model = chosen_model(state, recipe, folder)
    position = state.position
    best = recipe.select == "best" and position.best_epoch > 0
    accuracy = position.best_accuracy if best else position.last_accuracy
    provenance = {
        "run": folder.path.name,
        "data": recipe.data,
        "epochs": state.position.epoch,
        "steps": state.position.step,
        "seed": recipe.seed,
        "training_pictures": len(inputs.train),
        "validation_accuracy": accuracy,
    }
    save(model, folder.model, provenance=provenance)


def chosen_model(state: TrainingState, recipe: Recipe, folder: RunFolder) -> Classifier:
    """The averaged weights of the last epoch, or of the best by validation, as the recipe says."""
    if recipe.select == "last" or not folder.best.exists():
        return state.evaluation_model()
    best = load_checkpoint(folder.best)
    return state.model_with(best["averaged"] if best["averaged"] is not None else best["model"])


def finish(
    state: TrainingState,
    recipe: Recipe,
    inputs: Inputs,
    folder: RunFolder,
    progress: Progress,
) -> tuple[dict[str, Any], Path]:
    """Write model, evaluation and report; returns the evaluation and the report's path.

    Unless the recipe names a split, test pictures are evaluated where there are any, else those of
    validation, else the training pictures.
    """
    write_model(state, recipe, inputs, folder)
    split = recipe.evaluate_on or inputs.source.evaluation_split()
    pictures = inputs.source.splits[split]
    progress.say(f"evaluating on {len(pictures):,} {split} pictures")
    evaluation = evaluate(
        chosen_model(state, recipe, folder),
        pictures,
        split=split,
        batch_size=recipe.batch_size,
        workers=choose_workers(recipe, inputs.train),
        progress=progress.evaluated,
    ).to_dict()
    evaluation["model"] = "averaged weights" if recipe.averaging > 0 else "trained weights"
    folder.write_evaluation(evaluation)
    report = write_report(folder.path)
    error = evaluation["top1_standard_error"]
    if evaluation["skipped"]:
        progress.warn(f"{len(evaluation['skipped'])} {split} pictures could not be read")
    progress.say(
        f"{split} accuracy {evaluation['top1']:.4f} (standard error {error:.4f}) on "
        f"{evaluation['count']:,} pictures"
    )
    progress.say(f"model  {folder.model}")
    progress.say(f"report {report}")
    return evaluation, report
