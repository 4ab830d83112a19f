"""The training loop: `train(recipe)` from the first step to the report.

from xception import Recipe, train
result = train(Recipe.preset("small", data="pictures/"))
train(resume="runs/xception_tiny-pictures-1")
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xception.data import Batch, Loader, UnreadableTally, evaluation_loader
from xception.errors import TrainingError
from xception.inference import evaluate_loss_and_accuracy
from xception.training.checkpoint import load_checkpoint, save_checkpoint
from xception.training.finish import finish, write_model
from xception.training.interrupt import Interruption
from xception.training.optim import learning_rate, set_learning_rate
from xception.training.progress import Progress
from xception.training.recipe import Recipe
from xception.training.run_folder import RunFolder
from xception.training.runtime import Runtime
from xception.training.setup import (
    Inputs,
    choose_workers,
    make_model,
    open_inputs,
    preprocessing_for,
)
from xception.training.state import EpochTotals, TrainingState

CHECK_EVERY_STEPS = 25  # on accelerators; reading a loss waits for the device


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left behind."""

    folder: Path
    model_path: Path
    report_path: Path | None  # None when interrupted
    evaluation: dict[str, Any] | None  # as evaluation.json; None when interrupted
    interrupted: bool


def train(
    recipe: Recipe | None = None,
    *,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train by `recipe` in a new run folder, or go on with the run folder `resume`.

    Ctrl-C (SIGINT) or SIGTERM ends the current step, saves, and returns with `interrupted`; a
    resumed run gives bit for bit the weights of an uninterrupted one on the same machine.
    Raises DataError, RecipeError, UsageError before anything is written; TrainingError when the
    run has to stop (the last checkpoint stands then).
    """
    progress = progress or Progress()
    if resume is not None:
        folder = RunFolder.open(resume)
        checkpoint = load_checkpoint(folder.last)
        recipe = Recipe.from_dict(checkpoint["recipe"], str(folder.last))
    else:
        recipe = recipe or Recipe()
        folder, checkpoint = None, None
    runtime = Runtime(recipe)
    preprocessing = preprocessing_for(recipe)
    inputs = open_inputs(recipe, preprocessing)
    model = make_model(recipe, preprocessing, inputs.classes)
    state = TrainingState(runtime.place(model), recipe)
    if folder is None:
        folder = RunFolder.create(recipe)
        folder.write_environment(str(runtime.device))
    elif checkpoint is not None:
        if checkpoint["classes"] != inputs.classes:
            raise TrainingError(
                f"{recipe.data} has other classes than when run {folder.path} began; restore the "
                "data to resume"
            )
        state.restore(checkpoint)
        folder.keep_metrics_before(state.position.epoch)
    return _Run(recipe, runtime, inputs, state, folder, progress).go()


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
        self.pending: list[tuple[int, float, Tensor, Tensor, int]] = []

    def go(self) -> TrainResult:
        self._introduce()
        position = self.state.position
        self.runtime.start_trackers(self.folder.path, self.recipe)
        try:
            with Interruption() as interruption:
                while position.epoch < self.recipe.epochs and not interruption.wanted:
                    self._epoch(interruption)
                if position.epoch < self.recipe.epochs:
                    return self._stop_early()
        finally:
            self.progress.close()
            self.loader.close()
            if self.validation is not None:
                self.validation.close()
            self.runtime.end_trackers()
        evaluation, report = finish(
            self.state, self.recipe, self.inputs, self.folder, self.progress
        )
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
        validation = "none" if inputs.validation is None else f"{len(inputs.validation):,}"
        self.progress.say(
            f"{self.recipe.model} ({parameters:,} parameters) on {self.recipe.data}: "
            f"{len(inputs.train):,} training and {validation} validation pictures, "
            f"{len(inputs.classes)} classes"
        )
        for problem in inputs.source.problems:
            self.progress.warn(f"note: {problem}")
        self.progress.say(f"run folder {self.folder.path}, {self.runtime.description()}")

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
        for batch in self.loader.epoch(position.epoch, position.batch):
            self._step(batch, position.epoch + (position.batch + 0.5) / batches)
            position.batch += 1
            if interruption.wanted:
                break
        self._read_pending()
        position.totals.seconds += time.perf_counter() - began
        if position.batch == batches:
            self._end_epoch()

    def _step(self, batch: Batch, epoch: float) -> None:
        lr = learning_rate(self.recipe, epoch)
        self.unreadable.add(batch.skipped)
        if len(batch.y) < 2:  # batch normalization cannot work on one picture
            return
        set_learning_rate(self.state.optimizer, lr)
        x, y = self.runtime.to_device(batch.x), self.runtime.to_device(batch.y)
        with self.runtime.autocast():
            logits = self.network(x)
            loss = self.loss_function(logits.float(), y)
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
            f"the checkpoint of epoch {self.state.position.epoch} stands in {self.folder.last}"
            if self.folder.last.exists()
            else "no epoch was finished before"
        )
        return (
            f"the loss became {value} at step {step} (epoch {self.state.position.epoch + 1}, "
            f"learning rate {lr:.4g}); {kept}; start again with a lower --lr, or --clip-norm 1"
        )

    def _end_epoch(self) -> None:
        state, position = self.state, self.state.position
        if position.totals.pictures == 0:
            raise TrainingError(f"no picture of {self.recipe.data} could be used in this epoch")
        state.check_finite(f"after step {position.step}")
        val_loss = val_accuracy = None
        if self.validation is not None:
            val_loss, val_accuracy = evaluate_loss_and_accuracy(
                state.evaluation_model(), self.validation
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
            "skipped": self.unreadable.count,
        }
        position.batch, position.totals = 0, EpochTotals()
        better = False
        if val_accuracy is not None and val_accuracy > position.best_accuracy:
            better = True
            position.best_accuracy, position.best_epoch = val_accuracy, position.epoch
        checkpoint = state.to_checkpoint()
        save_checkpoint(self.folder.last, checkpoint)
        if better:
            save_checkpoint(self.folder.best, checkpoint)
        self.folder.append_metrics(row)
        self.runtime.track(row)
        self.progress.end_epoch(row)

    def _stop_early(self) -> TrainResult:
        self.progress.close()
        self.state.check_finite("when the run was interrupted")
        save_checkpoint(self.folder.last, self.state.to_checkpoint())
        write_model(self.state, self.recipe, self.inputs, self.folder)
        self.progress.say(
            f"interrupted at step {self.state.position.step}; everything is saved. Go on with: "
            f"xception train --resume {self.folder.path}"
        )
        return TrainResult(self.folder.path, self.folder.model, None, None, True)
