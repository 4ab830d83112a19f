from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xception.errors import RecipeError
from xception.training import Recipe, RunFolder, run, train
from xception.training.checkpoint import load_checkpoint
from xception.weights import open_model


def rising_then_falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation accuracy 0.9 after the first epoch, 0.1 after the second."""
    accuracies = iter((0.9, 0.1))
    monkeypatch.setattr(run, "evaluate_batches", lambda *_: (1.0, next(accuracies)))


@pytest.mark.parametrize(("select", "accuracy"), [("last", 0.1), ("best", 0.9)])
def test_the_model_is_the_last_or_the_best_epochs(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, select: str, accuracy: float
) -> None:
    rising_then_falling(monkeypatch)
    result = train(recipe.replaced(select=select))
    folder = RunFolder(result.folder)
    checkpoint = load_checkpoint(folder.last if select == "last" else folder.best)
    weights = load_file(result.model_path)
    assert all(torch.equal(value, weights[k]) for k, value in checkpoint["averaged"].items())
    assert open_model(result.model_path).provenance["validation_accuracy"] == accuracy


def test_without_validation_the_last_epoch_is_taken(recipe: Recipe) -> None:
    result = train(recipe.replaced(select="best", val_fraction=0.0))
    assert open_model(result.model_path).provenance["validation_accuracy"] is None


def test_the_test_pictures_can_stay_unseen(recipe: Recipe) -> None:
    result = train(recipe.replaced(evaluate_on="val"))
    assert result.evaluation is not None and result.evaluation["split"] == "val"
    with pytest.raises(RecipeError, match=r"evaluate_on is val, but .* has no such pictures"):
        train(recipe.replaced(evaluate_on="val", val_fraction=0.0, name="other"))


def test_evaluation_is_json_that_names_the_weights(recipe: Recipe) -> None:
    result = train(recipe.replaced(averaging=0.0))
    kept = json.loads(Path(result.folder / "evaluation.json").read_text())
    assert kept == result.evaluation
    assert kept["model"] == "trained weights"
    assert sum(map(sum, kept["confusion"])) == kept["count"] == 18
