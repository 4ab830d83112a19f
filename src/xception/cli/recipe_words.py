"""What stands before a recipe's fields on a command line: its data, its preset or its file."""

from __future__ import annotations

from xception.errors import UsageError
from xception.training.recipe import Recipe


def base_recipe(words: list[str]) -> Recipe:
    """The recipe that the fields among `words` change; what names it is taken out of them.

    A first word without a dash is the data. Raises UsageError, RecipeError.
    """
    preset, file = taken(words, "--preset"), taken(words, "--recipe")
    if preset is not None and file is not None:
        raise UsageError("give only one of --preset and --recipe")
    if words and not words[0].startswith("-"):
        words[:1] = ["--data", words[0]]
    if file is not None:
        return Recipe.load(file)
    return Recipe.preset(preset) if preset is not None else Recipe()


def taken(words: list[str], option: str) -> str | None:
    """Take `option VALUE` or `option=VALUE` out of `words`."""
    for index, word in enumerate(words):
        if word == option:
            if index + 1 == len(words):
                raise UsageError(f"{option} needs a value")
            value = words[index + 1]
            if value.startswith("--"):
                raise UsageError(f"{option} needs a value, got {value}")
            del words[index : index + 2]
            return value
        if word.startswith(option + "="):
            del words[index]
            return word.partition("=")[2]
    return None
