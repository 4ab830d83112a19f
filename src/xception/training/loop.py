"""The training loop: `train(recipe)` from the first step to the report.

from xception import Recipe, train
result = train(Recipe.preset("small", data="pictures/"))
train(resume="runs/xception_tiny-pictures-1")
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xception.data import Batch, Loader, UnreadableTally, evaluation_loader
from xception.errors import (
    DataError,
    PictureError,
    RecipeError,
    TrainingError,
    UsageError,
    XceptionError,
)
from xception.inference import evaluate_batches
from xception.models import Preprocessing
from xception.training.checkpoint import load_checkpoint, save_checkpoint
from xception.training.finish import finish, write_model
from xception.training.interrupt import Interruption
from xception.training.optim import learning_rate, set_learning_rate
from xception.training.progress import Progress
from xception.training.recipe import Recipe
from xception.training.run_folder import RunFolder
from xception.training.runtime import Runtime, missing_trackers
from xception.training.setup import (
    Inputs,
    adapted,
    choose_workers,
    make_model,
    open_inputs,
    preprocessing_for,
    rebuilt_model,
    with_model,
    with_whole_paths,
)
from xception.training.state import EpochTotals, TrainingState
from xception.weights import load

CHECK_EVERY_STEPS = 25  # on accelerators; reading a loss waits for the device


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left behind."""

    folder: Path
    model_path: Path
    report_path: Path | None  # None when interrupted
    evaluation: dict[str, Any] | None = field(repr=False)  # evaluation.json; None: interrupted
    interrupted: bool


def train(
    recipe: Recipe | None = None,
    *,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train by `recipe` in a new run folder, or go on with the run folder `resume`.

    Ctrl-C (SIGINT) or SIGTERM ends the current step, saves, and returns with `interrupted`. On a
    CPU a resumed run gives bit for bit the weights of an uninterrupted one on the same machine
    with as many threads.
    Raises DataError, RecipeError, UsageError before anything is written; TrainingError when the
    run has to stop (the last checkpoint stands then).
    """
    progress = progress or Progress()
    if resume is not None:
        return _resumed(RunFolder.open(resume), progress).go()
    recipe = with_whole_paths(recipe or Recipe())
    for name in missing_trackers(recipe):
        raise UsageError(
            f"tracker {name} is not installed; run pip install {name}, or leave it out of "
            "--trackers"
        )
    runtime = Runtime(recipe)
    source = load(recipe.weights) if recipe.weights is not None else None
    if source is None and (recipe.freeze_epochs > 0 or recipe.freeze_norm):
        raise RecipeError(
            f"recipe fields freeze_epochs and freeze_norm are {recipe.freeze_epochs} and "
            f"{recipe.freeze_norm}, but there are no weights that could be kept; give --weights "
            "MODEL, or --freeze-epochs 0 --no-freeze-norm"
        )
    recipe = with_model(recipe, source)
    preprocessing = preprocessing_for(recipe, source)
    inputs = open_inputs(recipe, preprocessing)
    recipe = adapted(recipe, len(inputs.train), progress.say)
    model = make_model(recipe, preprocessing, inputs.classes, source, progress.say)
    state = TrainingState(runtime.place(model), recipe, runtime.scaler)
    folder = RunFolder.create(recipe)
    folder.write_environment(str(runtime.device))
    try:
        return _Run(recipe, runtime, inputs, state, folder, progress).go()
    except XceptionError:
        folder.discard()
        raise


def _resumed(folder: RunFolder, progress: Progress) -> _Run:
    """The run of `folder` as its last checkpoint left it."""
    checkpoint = load_checkpoint(folder.last)
    try:
        recipe = Recipe.from_dict(checkpoint["recipe"], str(folder.last))
        preprocessing = Preprocessing.from_dict(checkpoint["preprocessing"])
        architecture, digest = checkpoint["architecture"], checkpoint["data"]
        arguments = dict(architecture["args"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"checkpoint {folder.last} is damaged: {error!r}") from None
    if folder.read_recipe() != recipe:
        progress.warn(f"{folder.recipe} was changed; the run goes on by the recipe it began with")
    for name in missing_trackers(recipe):
        progress.warn(f"tracker {name} is not installed here; going on without it")
    runtime = Runtime(recipe)
    inputs = open_inputs(recipe, preprocessing)
    if inputs.digest() != digest:
        raise TrainingError(
            f"the pictures of {recipe.data} are not those that run {folder.path} began with; "
            "restore them to resume, or start a new run from its model with --weights"
        )
    model = rebuilt_model(architecture["name"], arguments, preprocessing, inputs.classes, recipe)
    state = TrainingState(runtime.place(model), recipe, runtime.scaler)
    state.restore(checkpoint)
    folder.keep_metrics_before(state.position.epoch)
    return _Run(recipe, runtime, inputs, state, folder, progress)


class _Run:
    """One run while it goes on."""

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        inputs: Inputs,
        state: TrainingState,
        folder: RunFolder,
        progress: Progress,
    ) -> None:
        self.recipe = recipe
        self.runtime = runtime
        self.inputs = inputs
        self.state = state
        self.folder = folder
        self.progress = progress
        self.loss_function = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.unreadable = UnreadableTally(
            len(inputs.train), recipe.max_unreadable, self._name_unreadable
        )
        self.loader = Loader(
            inputs.train,
            recipe.batch_size,
            shuffle_seed=recipe.seed,
            workers=choose_workers(recipe, inputs.train),
            drop_last=len(inputs.train) >= recipe.batch_size,
        )
        self.validation = self._validation_loader()
        self.network = runtime.network(state.model)
        self.unreadable.reasons.update(state.unreadable)
        state.unreadable = self.unreadable.reasons
        self.unreadable_validation = UnreadableTally(
            len(inputs.validation or ()), recipe.max_unreadable, self._name_unreadable
        )
        state.data_digest = inputs.digest()
        self.last_batch: Tensor | None = None
        self.pending: list[tuple[int, float, Tensor, Tensor, int]] = []

    def go(self) -> TrainResult:
        """Train, evaluate, report; every way out leaves a checkpoint to go on from."""
        self._introduce()
        position = self.state.position
        if position.epoch >= self.recipe.epochs:
            self.progress.say("all epochs are done already; evaluating once more")
        self.runtime.start_trackers(self.folder.path, self.recipe)
        try:
            with Interruption() as interruption:
                while position.epoch < self.recipe.epochs and not interruption.wanted:
                    self._epoch(interruption)
                if interruption.wanted:
                    return self._stop_early()
            evaluation, report = finish(
                self.state, self.recipe, self.inputs, self.folder, self.progress
            )
        except KeyboardInterrupt:  # a second Ctrl-C, or one in the evaluation at the end
            self._say_how_to_go_on("interrupted")
            return TrainResult(self.folder.path, self.folder.model, None, None, True)
        finally:
            self.progress.close()
            self.loader.close()
            if self.validation is not None:
                self.validation.close()
            self.runtime.end_trackers()
        return TrainResult(self.folder.path, self.folder.model, report, evaluation, False)

    def _validation_loader(self) -> Loader | None:
        samples = self.inputs.validation
        if samples is None:
            return None
        return evaluation_loader(
            samples,
            self.state.model.preprocessing,
            self.recipe.batch_size,
            workers=self.loader.workers,
            cache=self.recipe.cache,
        )

    def _introduce(self) -> None:
        model, inputs = self.state.model, self.inputs
        parameters = sum(p.numel() for p in model.parameters())
        validation = "no" if inputs.validation is None else f"{len(inputs.validation):,}"
        height, width = model.preprocessing.size
        self.progress.say(
            f"{self.recipe.model}, {parameters:,} parameters, sees {height}x{width} pixels"
        )
        self.progress.say(
            f"{self.recipe.data}: {len(inputs.train):,} training and {validation} validation "
            f"pictures, {len(inputs.classes)} classes"
        )
        self._compare_sizes(height, width)
        for problem in inputs.source.problems:
            self.progress.warn(f"note: {problem}")
        self.progress.say(f"run folder {self.folder.path}, {self.runtime.description()}")

    def _compare_sizes(self, height: int, width: int) -> None:
        """Say so when the network would see little of the pictures; the first stands for all."""
        try:
            full_width, full_height = self.inputs.train.samples.size(0)
        except PictureError:
            return
        if min(full_height / height, full_width / width) >= 4:
            self.progress.warn(
                f"note: the first picture has {full_width}x{full_height} pixels, of which the "
                f"network sees {width}x{height}; --model xception or --size shows it more"
            )

    def _epoch(self, interruption: Interruption) -> None:
        position = self.state.position
        batches = len(self.loader)
        self.state.set_frozen(position.epoch < self.recipe.freeze_epochs)
        self.progress.start_epoch(
            position.epoch + 1,
            self.recipe.epochs,
            min(batches * self.recipe.batch_size, len(self.inputs.train)),
            position.totals.pictures,
        )
        began = time.perf_counter()
        try:
            for batch in self.loader.epoch(position.epoch, position.batch):
                self._step(batch, position.epoch + (position.batch + 0.5) / batches)
                position.batch += 1
                if interruption.wanted:
                    break
        except DataError:
            if not interruption.wanted:  # else the signal has reached the data workers as well
                raise
        self._read_pending()
        position.totals.seconds += time.perf_counter() - began
        if position.batch >= batches:
            self._end_epoch()

    def _step(self, batch: Batch, epoch: float) -> None:
        lr = learning_rate(self.recipe, epoch)
        self.unreadable.add(batch.skipped)
        if len(batch.y) < 2:  # what unreadable pictures left over; too few for batch normalization
            return
        set_learning_rate(self.state.optimizer, lr)
        x, y = self.runtime.to_device(batch.x), self.runtime.to_device(batch.y)
        with self.runtime.autocast():
            logits = self.network(x)
            loss = self.loss_function(logits.float(), y)
        self.last_batch = x
        correct = (logits.detach().argmax(1) == y).sum()
        self.pending.append((self.state.position.step + 1, lr, loss.detach(), correct, len(y)))
        if self.runtime.reads_are_free or len(self.pending) >= CHECK_EVERY_STEPS:
            self._read_pending()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.runtime.backward_and_step(loss, self.state.optimizer, self.recipe.clip_norm)
        if self.state.averaged is not None:
            self.state.averaged.update(self.state.model)
        self.state.position.step += 1

    def _read_pending(self) -> None:
        """Bring losses over from the device; stop when one is not a number."""
        totals: EpochTotals = self.state.position.totals
        for step, lr, loss, correct, pictures in self.pending:
            value = float(loss)
            if not math.isfinite(value):
                raise TrainingError(self._diverged(step, lr, value))
            totals.pictures += pictures
            totals.loss += value * pictures
            totals.correct += int(correct)
            self.progress.step(pictures, totals.mean_loss(), totals.accuracy())
        self.pending.clear()

    def _name_unreadable(self, name: str, reason: str) -> None:
        self.progress.warn(f"skipped {name}: {reason}")

    def _diverged(self, step: int, lr: float, value: float) -> str:
        kept = (
            f"the last good checkpoint stands in {self.folder.last}"
            if self.folder.last.exists()
            else "no checkpoint was written before"
        )
        return (
            f"the loss became {value} at step {step} (epoch {self.state.position.epoch + 1}, "
            f"learning rate {lr:.4g}); {kept}; start again with a lower --lr, or --clip-norm 1"
        )

    def _check_sane(self) -> None:
        """Raise TrainingError when the last step has ruined the network: nothing is saved then."""
        model, step = self.state.model, self.state.position.step
        finite = all(value.isfinite().all() for value in model.state_dict().values())
        if finite and self.last_batch is not None:
            was_training = model.training
            with torch.inference_mode():
                finite = bool(model.eval()(self.last_batch).isfinite().all())
            model.train(was_training)
        if not finite:
            lr = self.state.optimizer.param_groups[0]["lr"]
            raise TrainingError(self._diverged(step, lr, math.nan))

    def _end_epoch(self) -> None:
        state, position = self.state, self.state.position
        if position.totals.pictures == 0:
            raise TrainingError(f"no picture of {self.recipe.data} could be used in this epoch")
        self._check_sane()
        val_loss = val_accuracy = None
        if self.validation is not None:
            save_checkpoint(self.folder.last, state.to_checkpoint())  # validation can take long
            val_loss, val_accuracy = evaluate_batches(
                state.evaluation_model(), self.validation.epoch(), self.unreadable_validation.add
            )
            if not math.isfinite(val_loss):
                raise TrainingError(
                    f"the validation loss became {val_loss} after step {position.step} (epoch "
                    f"{position.epoch + 1}); start again with a lower --lr"
                )
        position.epoch += 1
        row = {
            "epoch": position.epoch,
            "step": position.step,
            "train_loss": position.totals.mean_loss(),
            "train_accuracy": position.totals.accuracy(),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "lr": learning_rate(self.recipe, position.epoch - 0.5 / len(self.loader)),
            "seconds": position.totals.seconds,
            "images_per_second": position.totals.pictures / max(position.totals.seconds, 1e-9),
            "skipped": self.unreadable.count + self.unreadable_validation.count,
        }
        position.batch, position.totals = 0, EpochTotals()
        position.last_accuracy = val_accuracy
        better = val_accuracy is not None and val_accuracy > position.best_accuracy
        if val_accuracy is not None and better:
            position.best_accuracy, position.best_epoch = val_accuracy, position.epoch
        checkpoint = state.to_checkpoint()
        # In this order a kill between two of them loses nothing: the epoch is done once more.
        self.folder.append_metrics(row)
        if better:
            save_checkpoint(self.folder.best, checkpoint)
        save_checkpoint(self.folder.last, checkpoint)
        self.runtime.track(row)
        self.progress.end_epoch(row)

    def _stop_early(self) -> TrainResult:
        self.progress.close()
        self._check_sane()
        save_checkpoint(self.folder.last, self.state.to_checkpoint())
        write_model(self.state, self.recipe, self.inputs, self.folder)
        self._say_how_to_go_on(
            f"interrupted at step {self.state.position.step}; everything is saved"
        )
        return TrainResult(self.folder.path, self.folder.model, None, None, True)

    def _say_how_to_go_on(self, what: str) -> None:
        self.progress.close()
        way = (
            f"Go on with: xception train --resume {self.folder.path}"
            if self.folder.last.exists()
            else "No checkpoint was written yet"
        )
        self.progress.say(f"{what}. {way}")
