"""The training loop: a run's epochs and steps, from its state to the report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xception.data import Batch, Loader, UnreadableTally, evaluation_loader
from xception.errors import DataError, OtherProcessError, PictureError, TrainingError
from xception.inference import evaluate_batches
from xception.training.checkpoint import save_checkpoint
from xception.training.finish import finish, write_model
from xception.training.interrupt import Interruption
from xception.training.losses import make_loss
from xception.training.optim import learning_rate, scale_of_batch, set_learning_rate
from xception.training.progress import Progress
from xception.training.recipe import Recipe
from xception.training.run_folder import RunFolder
from xception.training.runtime import Runtime
from xception.training.setup import Inputs, choose_workers
from xception.training.state import EpochTotals, TrainingState
from xception.training.step import Step

CHECK_EVERY_STEPS = 25  # on accelerators; reading a loss waits for the device


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left behind."""

    folder: Path
    model_path: Path
    report_path: Path | None  # None when interrupted
    evaluation: dict[str, Any] | None = field(repr=False)  # evaluation.json; None: interrupted
    interrupted: bool


class Run:
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
        self.processes = runtime.processes
        self.inputs = inputs
        self.state = state
        self.folder = folder
        self.progress = progress
        self.unreadable = UnreadableTally(
            len(inputs.train), recipe.max_unreadable, self._name_unreadable
        )
        self.loader = Loader(
            inputs.train,
            recipe.batch_size,
            shuffle_seed=recipe.seed,
            workers=choose_workers(recipe, inputs.train, self.processes.on_this_machine),
            drop_last=len(inputs.train) >= recipe.batch_size,
            share=self.processes.share,
            balanced=recipe.sampling == "balanced",
        )
        self.validation = self._validation_loader()
        self.step = Step(
            runtime.network(state.model),
            state.optimizer,
            make_loss(recipe, inputs.train.samples.labels, len(inputs.classes)).to(runtime.device),
            recipe,
            runtime,
        )
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
        if self._is_done():
            self.progress.say("all epochs are done already; evaluating once more")
        self.runtime.start_trackers(self.folder.path, self.recipe)
        try:
            with Interruption() as interruption:
                stops = self._agree(interruption)
                while not self._is_done() and not stops:
                    self._epoch(interruption)
                    stops = self._agree(interruption)
                if stops:
                    return self._stop_early()
            evaluation, report = self.processes.first_does(
                lambda: finish(self.state, self.recipe, self.inputs, self.folder, self.progress)
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

    def _is_done(self) -> bool:
        """After the last epoch, or where patience has run out."""
        position, patience = self.state.position, self.recipe.patience
        waited = position.epoch - position.best_epoch if position.best_epoch else 0
        return position.epoch >= self.recipe.epochs or (patience is not None and waited >= patience)

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
            share=self.processes.share,
        )

    def _agree(self, interruption: Interruption) -> bool:
        """Whether the run stops here: all processes do when one was asked to."""
        return self.processes.sums(float(interruption.wanted))[0] > 0

    def _skipped(self, own: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Unreadable pictures of all processes' shares; all of them have to ask."""
        found = list(own)
        if self.processes.sums(len(found))[0] == 0:
            return found
        return [picture for share in self.processes.gathered(found) for picture in share]

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
        scale = scale_of_batch(self.recipe)
        if scale != 1:
            self.progress.say(
                f"learning rate {self.recipe.lr * scale:.3g}: {self.recipe.lr:g} is meant for "
                f"{self.recipe.lr_batch} pictures a step, here are {self.recipe.batch_size}"
            )
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
        loaded = self.loader.epoch(position.epoch, position.batch)
        while position.batch < batches:
            batch, failure = _next(loaded)
            own = self.step.usable(len(batch.y))
            pictures, skipped, stops, failures = self.processes.sums(
                own, len(batch.skipped), interruption.wanted, failure is not None
            )
            if stops:  # the signal may have reached data workers as well
                break
            if failures:
                raise failure or OtherProcessError("another process has no more pictures")
            if skipped:
                unreadable = self.processes.gathered(batch.skipped)
                self.unreadable.add([picture for share in unreadable for picture in share])
            when = position.epoch + (position.batch + 0.5) / batches
            self._step(batch, own, int(pictures), when)
            position.batch += 1
        self._read_pending()
        position.totals.seconds += time.perf_counter() - began
        if position.batch >= batches:
            self._end_epoch()

    def _step(self, batch: Batch, own: int, pictures: int, epoch: float) -> None:
        """own: usable pictures of `batch`; pictures: of all processes' shares together"""
        lr = learning_rate(self.recipe, epoch, len(self.inputs.train))
        if pictures < 2:  # what unreadable pictures left over; too few for batch normalization
            return
        set_learning_rate(self.state.optimizer, lr)
        x, y = self.runtime.to_device(batch.x[:own]), self.runtime.to_device(batch.y[:own])
        losses, correct = self.step(x, y, pictures)
        self.last_batch = x if own else self.last_batch
        self.pending.append((
            self.state.position.step + 1, lr, self.processes.add_up(losses),
            self.processes.add_up(correct), pictures,
        ))  # fmt: skip
        if self.runtime.reads_are_free or len(self.pending) >= CHECK_EVERY_STEPS:
            self._read_pending()
        if self.state.averaged is not None:
            self.state.averaged.update(self.state.model)
        self.state.position.step += 1

    def _read_pending(self) -> None:
        """Bring losses over from the device; stop when one is not a number."""
        totals: EpochTotals = self.state.position.totals
        for step, lr, losses, correct, pictures in self.pending:
            value = float(losses) / pictures
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
        if self.processes.sums(float(not finite))[0] > 0:
            lr = self.state.optimizer.param_groups[0]["lr"]
            raise TrainingError(self._diverged(step, lr, math.nan))

    def _end_epoch(self) -> None:
        state, position = self.state, self.state.position
        if position.totals.pictures == 0:
            raise TrainingError(f"no picture of {self.recipe.data} could be used in this epoch")
        self._check_sane()
        val_loss = val_accuracy = None
        if self.validation is not None:
            self._save(self.folder.last)  # validation can take long
            model = state.evaluation_model()
            self.processes.copy_from_first(model)  # whose running statistics are the run's
            val_loss, val_accuracy = evaluate_batches(
                model,
                self.validation.epoch(),
                lambda skipped: self.unreadable_validation.add(self._skipped(skipped)),
                self.processes.sums,
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
            "lr": learning_rate(
                self.recipe, position.epoch - 0.5 / len(self.loader), len(self.inputs.train)
            ),
            "seconds": position.totals.seconds,
            "images_per_second": position.totals.pictures / max(position.totals.seconds, 1e-9),
            "skipped": self.unreadable.count + self.unreadable_validation.count,
        }
        position.batch, position.totals = 0, EpochTotals()
        position.last_accuracy = val_accuracy
        better = val_accuracy is not None and val_accuracy > position.best_accuracy
        if val_accuracy is not None and better:
            position.best_accuracy, position.best_epoch = val_accuracy, position.epoch
        # In this order a kill between two of them loses nothing: the epoch is done once more.
        self.processes.first_does(lambda: self.folder.append_metrics(row))
        self._save(*((self.folder.best,) if better else ()), self.folder.last)
        self.runtime.track(row)
        self.progress.end_epoch(row)

    def _save(self, *paths: Path) -> None:
        """The state as it is, by the first process; all of them give their part of it."""
        checkpoint = self.state.to_checkpoint(self.processes)
        for path in paths:
            self.processes.first_does(lambda path=path: save_checkpoint(path, checkpoint))  # type: ignore[misc]

    def _stop_early(self) -> TrainResult:
        self.progress.close()
        self._check_sane()
        self._save(self.folder.last)
        self.processes.first_does(
            lambda: write_model(self.state, self.recipe, self.inputs, self.folder)
        )
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


def _next(loaded: Iterator[Batch]) -> tuple[Batch, DataError | None]:
    """The next batch; or one of nothing, and why."""
    try:
        return next(loaded), None
    except DataError as error:
        nothing = torch.empty(0, dtype=torch.int64)
        return Batch(torch.empty(0), nothing, nothing, [], -1), error
