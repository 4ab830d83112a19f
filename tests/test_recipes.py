"""The recipes that the repository offers can be read, and name networks that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from xception.models import list_models
from xception.training import Recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    assert Recipe.load(path).model in list_models()


def test_there_are_some() -> None:
    assert RECIPES
