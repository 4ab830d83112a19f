"""From a recipe to what the loop works with: data, network, device, starting weights."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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
from xception.data.dataset import mixed
from xception.errors import DataError, RecipeError, TrainingError
from xception.models import Classifier, Preprocessing, create_model, model_entry, resolved_arguments
from xception.processes import Processes
from xception.training.optim import scale_of_batch
from xception.training.recipe import Recipe
from xception.weights import arguments_from, check_class_names, transfer

DEFAULT_MODEL = "xception_tiny"
LEAST_STEPS = 16  # an epoch
QUICK_MOMENTUM = 0.1  # of batch normalization: PyTorch's
LEAST_FORGETTING = 30  # steps times momentum; at 4 the statistics of a fresh network were useless


@dataclass(slots=True)
class Inputs:
    """The pictures of a run."""

    source: DataSource
    train: PictureDataset
    validation: Samples | None

    @property
    def classes(self) -> list[str]:
        return self.source.classes

    def digest(self) -> str:
        """Changes when pictures are added, removed, renamed or sorted into other classes."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for samples in (self.train.samples, self.validation):
            for name, label in zip(samples.names, samples.labels) if samples is not None else ():
                digest.update(f"{os.path.basename(name)}\0{label}\n".encode())
            digest.update(b"\n")
        return digest.hexdigest()


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, so that it means the same from every folder."""
    paths = {
        name: str(Path(value).expanduser().absolute())
        for name in ("data", "weights")
        if (value := getattr(recipe, name)) is not None and Path(value).expanduser().exists()
    }
    return recipe.replaced(**paths)


def with_model(recipe: Recipe, source: Classifier | None) -> Recipe:
    """The recipe with the network that it leaves open: that of the starting weights, else tiny."""
    if recipe.model is not None:
        return recipe
    return recipe.replaced(model=source.architecture["name"] if source else DEFAULT_MODEL)


def adapted(
    recipe: Recipe, pictures: int, say: Callable[[str], None], processes: int = 1
) -> Recipe:
    """The recipe for few pictures: smaller batches, statistics that follow sooner. Our choices.

    A batch is halved (to 8 at least, or what so many processes need) until an epoch has 16 steps,
    and the learning rate follows it (`scale_of_batch`). Where fresh batch normalization would
    forget its first statistics too slowly for the steps of the run, its momentum becomes 0.1.
    """
    if not recipe.adapt:
        return recipe
    least = max(8, least_batch(recipe, processes))
    return _with_quick_statistics(
        _with_smaller_batches(recipe, pictures, say, least), pictures, say
    )


def _with_quick_statistics(recipe: Recipe, pictures: int, say: Callable[[str], None]) -> Recipe:
    if recipe.model is None or recipe.weights is not None or recipe.bn_momentum is not None:
        return recipe
    own = resolved_arguments(recipe.model)["bn_momentum"]
    steps = recipe.epochs * (pictures // recipe.batch_size)
    if own >= QUICK_MOMENTUM or steps * own >= LEAST_FORGETTING:
        return recipe
    say(
        f"{steps:,} steps are few for running statistics that move by {own:g} a step: bn_momentum "
        f"{QUICK_MOMENTUM:g} instead (--no-adapt keeps it)"
    )
    return recipe.replaced(bn_momentum=QUICK_MOMENTUM)


def _with_smaller_batches(
    recipe: Recipe, pictures: int, say: Callable[[str], None], least: int
) -> Recipe:
    batch_size = recipe.batch_size
    while batch_size // 2 >= least and pictures // batch_size < LEAST_STEPS:
        batch_size //= 2
    if batch_size == recipe.batch_size:
        return recipe
    smaller = recipe.replaced(batch_size=batch_size, lr_batch=recipe.lr_batch or recipe.batch_size)
    before, lr = (r.lr * scale_of_batch(r) for r in (recipe, smaller))
    say(
        f"{pictures:,} training pictures are few: batch size {batch_size} instead of "
        f"{recipe.batch_size}, learning rate {lr:.3g} instead of {before:.3g} (--no-adapt keeps "
        "them)"
    )
    return smaller


def open_inputs(recipe: Recipe, preprocessing: Preprocessing) -> Inputs:
    """Training pictures with augmentation, validation pictures as they are.

    Raises DataError when there is nothing to train on.
    """
    source = open_data(recipe.data, seed=recipe.seed, val_fraction=recipe.val_fraction)
    train = source.splits.get("train")
    if train is None or len(train) < 2:
        raise DataError(f"{recipe.data} has fewer than two training pictures")
    if recipe.evaluate_on is not None and not source.splits.get(recipe.evaluate_on):
        raise RecipeError(
            f"recipe field evaluate_on is {recipe.evaluate_on}, but {recipe.data} has no such "
            f"pictures (it has {', '.join(source.splits)}); name another split or none"
        )
    augmentation = Augmentation(
        crop=recipe.crop,
        crop_padding=recipe.crop_padding,
        crop_edges=recipe.crop_edges,
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
    return Inputs(source, dataset, source.splits.get("val") or None)


def preprocessing_for(recipe: Recipe, source: Classifier | None) -> Preprocessing:
    """Of the model that training starts from, else the network's own; the recipe's size goes first.

    Raises RecipeError when there is no network of the recipe's name.
    """
    try:
        preprocessing = model_entry(str(recipe.model)).preprocessing
    except ValueError as error:
        raise RecipeError(f"recipe field model: {error}") from None
    if source is not None:
        preprocessing = source.preprocessing
    changes: dict[str, Any] = {}
    if recipe.size is not None:
        changes["size"] = (recipe.size, recipe.size)
    if recipe.resize is not None:
        changes["resize"] = recipe.resize
    return dataclasses.replace(preprocessing, **changes)


def make_model(
    recipe: Recipe,
    preprocessing: Preprocessing,
    classes: list[str],
    source: Classifier | None,
    say: Callable[[str], None],
) -> Classifier:
    """The network with fresh weights (by `recipe.seed`), or with those of `source`.

    Settings that the recipe leaves open are the source's. Raises RecipeError when the network does
    not take the recipe's arguments, UsageError when the source is another network, DataError when
    the classes cannot stand in a model file.
    """
    try:
        check_class_names(classes, len(classes))  # now, not when the model file is written
    except ValueError as error:
        raise DataError(f"{recipe.data} {error}") from None
    arguments = {**recipe.model_arguments(), "num_classes": len(classes)}
    if source is not None and source.architecture["name"] == recipe.model:
        arguments = arguments_from(source, arguments)
    torch.manual_seed(recipe.seed)
    try:
        model = cast(Classifier, create_model(str(recipe.model), **arguments))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe: {error}") from None
    if min(preprocessing.size) < model.minimum_size:
        raise RecipeError(
            f"recipe field size must be at least {model.minimum_size} for {recipe.model}, "
            f"got {min(preprocessing.size)}"
        )
    if source is not None:
        report = transfer(model, source, classes=classes, name=str(recipe.weights))
        say(f"weights of {recipe.weights}; the last layer is {report.last_layer}: {report.reason}")
    return _prepared(model, preprocessing, classes, recipe)


def rebuilt_model(
    name: str,
    arguments: dict[str, Any],
    preprocessing: Preprocessing,
    classes: list[str],
    recipe: Recipe,
) -> Classifier:
    """The network of a checkpoint, its weights still to be restored."""
    try:
        model = cast(Classifier, create_model(name, **arguments))
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"the checkpoint describes no network of this version: {error}"
        ) from None
    return _prepared(model, preprocessing, classes, recipe)


def _prepared(
    model: Classifier, preprocessing: Preprocessing, classes: list[str], recipe: Recipe
) -> Classifier:
    model.class_names = list(classes)
    model.preprocessing = preprocessing
    model.set_grad_checkpointing(recipe.checkpoint_gradients)
    return model.to(memory_format=torch.channels_last)


def least_batch(recipe: Recipe, processes: int) -> int:
    """Pictures that a batch needs: two wherever batch normalization takes them by themselves."""
    return 2 * recipe.accumulate * (1 if recipe.sync_bn else processes)


def check_shares(recipe: Recipe, processes: int, pictures: int) -> None:
    """Raise RecipeError where a batch has too few pictures for so many processes."""
    least, batch_size = least_batch(recipe, processes), min(recipe.batch_size, pictures)
    if batch_size < least:
        counted = f"{processes} process{'es' if processes > 1 else ''}"
        few = "" if pictures >= recipe.batch_size else f" (of {pictures} training pictures)"
        raise RecipeError(
            f"recipe field batch_size must be at least {least} for {counted} and accumulate "
            f"{recipe.accumulate}, since each part of a batch is normalized by two pictures or "
            f"more, got {batch_size}{few}; start fewer processes, or give --sync-bn"
        )


def seed_process(seed: int, processes: Processes) -> None:
    """Random numbers of a process's own from here on; a single process goes on with the network's.

    Dropout would else leave out the same values in every share.
    """
    if processes.are_several:
        torch.manual_seed(mixed(seed, processes.index))


def choose_workers(recipe: Recipe, dataset: PictureDataset, processes: int = 1) -> int:
    """Decoding processes: none when pictures come from memory, else one a core but one.

    processes: that share this machine's cores
    """
    if recipe.workers is not None:
        return recipe.workers
    if dataset.is_cached:  # preparing a cached picture is cheaper than handing it over
        return 0
    return max(1, min(8, (os.cpu_count() or 2) // processes - 1))
