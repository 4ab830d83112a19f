"""From a recipe to what the loop works with: data, network, device, starting weights."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, cast

import torch

from xception.data import (
    Augmentation,
    DataSource,
    PictureDataset,
    Samples,
    open_data,
    train_transform,
)
from xception.errors import DataError, RecipeError, UsageError
from xception.models import Classifier, Preprocessing, create_model, model_entry
from xception.training.recipe import Recipe
from xception.weights import check_class_names, load


@dataclass(slots=True)
class Inputs:
    """The pictures of a run."""

    source: DataSource
    train: PictureDataset
    validation: Samples | None

    @property
    def classes(self) -> list[str]:
        return self.source.classes


def open_inputs(recipe: Recipe, preprocessing: Preprocessing) -> Inputs:
    """Training pictures with augmentation, validation pictures as they are.

    Raises DataError when there is nothing to train on.
    """
    source = open_data(recipe.data, seed=recipe.seed, val_fraction=recipe.val_fraction)
    train = source.splits.get("train")
    if train is None or len(train) == 0:
        raise DataError(f"{recipe.data} has no training pictures")
    if len(train) < 2:
        raise DataError(f"{recipe.data} has a single training picture; give more")
    augmentation = Augmentation(
        crop=recipe.crop,
        crop_padding=recipe.crop_padding,
        crop_scale=recipe.crop_scale,
        flip=recipe.flip,
        erase=recipe.erase,
        color_jitter=recipe.color_jitter,
        randaugment=recipe.randaugment,
        cutout=recipe.cutout,
    )
    dataset = PictureDataset(
        train,
        train_transform(preprocessing, augmentation),
        seed=recipe.seed,
        cache=recipe.cache,
    )
    validation = source.splits.get("val")
    return Inputs(
        source, dataset, validation if validation is not None and len(validation) else None
    )


def preprocessing_for(recipe: Recipe) -> Preprocessing:
    """The model's own preprocessing with the recipe's size and resizing."""
    try:
        preprocessing = model_entry(recipe.model).preprocessing
    except ValueError as error:
        raise RecipeError(f"recipe field model: {error}") from None
    changes: dict[str, Any] = {}
    if recipe.size is not None:
        changes["size"] = (recipe.size, recipe.size)
    if recipe.resize is not None:
        changes["resize"] = recipe.resize
    return dataclasses.replace(preprocessing, **changes)


def make_model(recipe: Recipe, preprocessing: Preprocessing, classes: list[str]) -> Classifier:
    """The network with fresh weights (by `recipe.seed`) or those of `recipe.weights`.

    Raises RecipeError when the network does not take the recipe's arguments.
    """
    try:
        check_class_names(classes, len(classes))  # now, not when the model file is written
    except ValueError as error:
        raise DataError(f"{recipe.data} {error}") from None
    torch.manual_seed(recipe.seed)
    try:
        made = create_model(recipe.model, num_classes=len(classes), **recipe.model_arguments())
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe: {error}") from None
    model = cast(Classifier, made)
    if min(preprocessing.size) < model.minimum_size:
        raise RecipeError(
            f"recipe field size must be at least {model.minimum_size} for {recipe.model}, "
            f"got {min(preprocessing.size)}"
        )
    if recipe.weights is None and recipe.freeze_epochs > 0:
        raise RecipeError(
            f"recipe field freeze_epochs is {recipe.freeze_epochs}, but there are no weights that "
            "could be kept; give --weights MODEL, or --freeze-epochs 0"
        )
    if recipe.weights is not None:
        _start_from(model, load(recipe.weights), recipe)
    model.class_names = list(classes)
    model.preprocessing = preprocessing
    model.set_grad_checkpointing(recipe.checkpoint_gradients)
    return model.to(memory_format=torch.channels_last)


def _start_from(model: Classifier, source: Classifier, recipe: Recipe) -> None:
    """Copy every weight that fits; only the last layer may differ, and then starts fresh."""
    if source.architecture["name"] != recipe.model:
        raise UsageError(
            f"weights {recipe.weights} are of {source.architecture['name']}, but the recipe's "
            f"model is {recipe.model}; set --model {source.architecture['name']}"
        )
    own = model.state_dict()
    given = source.state_dict()
    differing = [k for k in own if k not in given or own[k].shape != given[k].shape]
    last_layer = {f"head.fc.{name}" for name in ("weight", "bias")}
    if set(differing) - last_layer:
        name = sorted(set(differing) - last_layer)[0]
        raise UsageError(
            f"weights {recipe.weights} do not fit the recipe's network: {name} differs; use the "
            f"same architecture settings ({source.architecture['args']})"
        )
    model.load_state_dict({k: v for k, v in given.items() if k not in differing}, strict=False)


def choose_workers(recipe: Recipe, dataset: PictureDataset) -> int:
    """Decoding processes: none when pictures come from memory, else one a core but one."""
    if recipe.workers is not None:
        return recipe.workers
    if dataset.is_cached:  # preparing a cached picture is cheaper than handing it over
        return 0
    return max(1, min(8, (os.cpu_count() or 2) - 1))
