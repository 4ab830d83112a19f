from __future__ import annotations

import io

from rich.console import Console

from xception.training import RichProgress

ROW = {
    "epoch": 2, "step": 10, "train_loss": 0.5, "train_accuracy": 0.8, "val_loss": 0.4,
    "val_accuracy": 0.85, "lr": 0.1, "seconds": 12.0, "images_per_second": 1234.5, "skipped": 0,
}  # fmt: skip


def run(terminal: bool, row: dict[str, object]) -> str:
    out = io.StringIO()
    progress = RichProgress(Console(file=out, force_terminal=terminal, width=100, highlight=False))
    progress.say("a [line] of " + "x" * 120)
    progress.start_epoch(2, 10, 640, 64)
    progress.step(64, 0.6, 0.75)
    progress.end_epoch(row)
    progress.evaluated(5, 10)
    progress.evaluated(10, 10)
    progress.warn("careful")
    progress.close()
    return out.getvalue()


def test_without_a_terminal_there_are_plain_lines() -> None:
    lines = run(False, ROW).splitlines()
    assert lines[0] == "a [line] of " + "x" * 120
    assert lines[1] == (
        "epoch  2/10  loss 0.500 acc 0.8000  val 0.400 0.8500  12 s  1,234 images/s"
    )
    assert lines[2] == "careful"


def test_in_a_terminal_there_is_a_bar_with_the_time_left() -> None:
    shown = run(True, ROW)
    assert "loss 0.600  accuracy 0.750" in shown
    assert "images/s" in shown
    assert " left" in shown
    assert "evaluating" in shown


def test_without_validation_none_is_shown() -> None:
    assert "val" not in run(False, {**ROW, "val_loss": None, "val_accuracy": None})
