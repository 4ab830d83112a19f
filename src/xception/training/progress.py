"""What is shown while a run goes on. The loop tells; a `Progress` shows it, or does not."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text


class Progress:
    """Silent: the base that the loop talks to. Override what should be shown."""

    def say(self, line: str) -> None:
        """One plain line for the user."""

    def warn(self, line: str) -> None:
        """One line that the user should not miss."""

    def start_epoch(self, epoch: int, epochs: int, pictures: int, done: int) -> None:
        """An epoch (1-based) of `pictures` begins, `done` of them seen before a resume."""

    def step(self, pictures: int, loss: float, accuracy: float) -> None:
        """`pictures` more were trained on; running means of the epoch."""

    def end_epoch(self, row: dict[str, Any]) -> None:
        """The epoch is over; `row` is what metrics.jsonl holds of it."""

    def evaluated(self, done: int, pictures: int) -> None:
        """`done` of `pictures` went through the evaluation at the end."""

    def close(self) -> None:
        """Nothing more will come."""


class _Rate(ProgressColumn):
    """Images a second over this epoch."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['rate']:,.0f} images/s".rjust(14), style="progress.data.speed")


class _Left(ProgressColumn):
    """Time left in the whole run, by this epoch's rate."""

    def render(self, task: Task) -> Text:
        rate = task.fields["rate"]
        if not rate:
            return Text("  --:-- left")
        pictures = (task.total or 0) - task.completed + task.fields["later"]
        minutes, seconds = divmod(round(pictures / rate), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
        return Text(f"{left:>7} left", style="progress.remaining")


class RichProgress(Progress):
    """A bar an epoch and a line when it is over; plain lines where there is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bar: Bar | None = None
        self._task: Any = None
        self._began = 0.0
        self._seen = 0
        self._epochs = 0

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        self.console.print(line, style="yellow", markup=False, soft_wrap=True)

    def start_epoch(self, epoch: int, epochs: int, pictures: int, done: int) -> None:
        self._began, self._seen, self._epochs = time.perf_counter(), 0, epochs
        if not self.console.is_terminal:
            return
        self._bar = Bar(
            TextColumn(f"epoch {epoch:>{len(str(epochs))}}/{epochs}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.3f}"),
            _Rate(),
            _Left(),
            console=self.console,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task(
            "epoch",
            total=pictures,
            completed=done,
            later=(epochs - epoch) * pictures,
            loss=0.0,
            accuracy=0.0,
            rate=0.0,
        )
        self._bar.start()

    def step(self, pictures: int, loss: float, accuracy: float) -> None:
        self._seen += pictures
        if self._bar is not None:
            rate = self._seen / max(time.perf_counter() - self._began, 1e-9)
            self._bar.update(self._task, advance=pictures, loss=loss, accuracy=accuracy, rate=rate)

    def end_epoch(self, row: dict[str, Any]) -> None:
        self.close()
        validation = (
            f"  val {row['val_loss']:.3f} {row['val_accuracy']:.4f}"
            if row["val_accuracy"] is not None
            else ""
        )
        self.say(
            f"epoch {row['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {row['train_loss']:.3f} acc {row['train_accuracy']:.4f}{validation}"
            f"  {row['seconds']:.0f} s  {row['images_per_second']:,.0f} images/s"
        )

    def evaluated(self, done: int, pictures: int) -> None:
        if not self.console.is_terminal:
            return
        if self._bar is None:
            self._bar = Bar(
                TextColumn("evaluating"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                console=self.console,
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task("evaluating", total=pictures)
            self._bar.start()
        self._bar.update(self._task, completed=done)
        if done >= pictures:
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
