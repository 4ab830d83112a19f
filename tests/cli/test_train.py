"""What `xception train` makes of its words, without training."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from xception.cli import train
from xception.training.recipe import Recipe


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Recipe | None]:
    """The recipes that would have been trained."""
    found: list[Recipe | None] = []
    monkeypatch.setattr(
        train, "_train", lambda recipe, resume, quiet: found.append(recipe) or len(found) - 1
    )
    return found


@pytest.mark.parametrize(
    "words, layers",
    [
        (["--head-layers", "linear 64", "relu", "dropout 0.5", "--epochs", "3"],
         ("linear 64", "relu", "dropout 0.5")),
        (["--head-layers", "batchnorm 1e-3 0.01", "--epochs", "3"], ("batchnorm 1e-3 0.01",)),
        (["--epochs", "3"], None),
    ],
)  # fmt: skip
def test_layers_of_the_head(
    words: Sequence[str], layers: tuple[str, ...] | None, read: list[Recipe | None]
) -> None:
    assert train.run(["pictures", "--pooling", "max", *words]) == 0
    (recipe,) = read
    assert recipe is not None and recipe.head_layers == layers
    assert (recipe.data, recipe.pooling, recipe.epochs) == ("pictures", "max", 3)
