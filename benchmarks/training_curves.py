"""The same training with the kernels and without them: curves that lie on each other.

    python benchmarks/training_curves.py [--epochs 6] [--seeds 0 1] [--lr 0.03]

Kernels round otherwise than plain torch, and training carries every rounding on; so runs part after
some steps, as they do when anything about the arithmetic changes. How far apart that alone sets two
runs is shown by a third one, plain torch with other threads. A fourth has the kernels and keeps
what backward reads in bfloat16 (`xception.compress_saved_activations`), which is more than
another rounding. All train `xception_tiny` on the built-in data set by the preset "demo" through
`xception.train`, with a lower learning rate: at the preset's own the first epoch is so rough that
no two runs agree on it. Writes every step's loss to benchmarks/results/training_curves.json.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from typing import Any

import torch
from record import add_out, write

import xception
from xception.training import Progress

DATA, PRESET = "fashion-mnist-5k", "demo"


class StepRecorder(Progress):
    """Keeps the loss of every step and the figures of every epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.epochs: list[dict[str, float]] = []
        self._seen, self._sum = 0, 0.0

    def start_epoch(self, epoch: int, epochs: int, pictures: int, done: int) -> None:
        self._seen, self._sum = 0, 0.0

    def step(self, pictures: int, loss: float, accuracy: float) -> None:
        """`loss` is the mean of the epoch so far; a step's own is what it adds to the sum."""
        self._seen += pictures
        total = loss * self._seen
        self.losses.append(round((total - self._sum) / pictures, 6))
        self._sum = total

    def end_epoch(self, row: dict[str, Any]) -> None:
        names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        self.epochs.append({name: round(row[name], 6) for name in names})


def run(kernels: str, threads: int, kept: str, seed: int, epochs: int, lr: float) -> dict[str, Any]:
    """One training; its curves, and the accuracy on test pictures.

    kept: "float32" or "bfloat16", what feature maps wait for backward in
    """
    within = xception.compress_saved_activations if kept == "bfloat16" else nullcontext
    before = xception.set_kernels(kernels)
    torch.set_num_threads(threads)
    recorder = StepRecorder()
    with tempfile.TemporaryDirectory() as folder:
        recipe = xception.Recipe.preset(
            PRESET, data=DATA, epochs=epochs, seed=seed, lr=lr, out=folder, trackers=()
        )
        with within():
            result = xception.train(recipe, progress=recorder)
    xception.set_kernels(before)
    assert result.evaluation is not None
    return {
        "kernels": kernels,
        "threads": threads,
        "kept": kept,
        "seed": seed,
        "step_loss": recorder.losses,
        "epochs": recorder.epochs,
        "test_accuracy": result.evaluation["top1"],
        "test_accuracy_standard_error": result.evaluation["top1_standard_error"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    add_out(parser, "training_curves")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    other = 1 if threads > 1 else 2
    runs = []
    for seed in arguments.seeds:
        for kernels, count, kept in (
            ("auto", threads, "float32"), ("off", threads, "float32"), ("off", other, "float32"),
            ("auto", threads, "bfloat16"),
        ):  # fmt: skip
            runs.append(run(kernels, count, kept, seed, arguments.epochs, arguments.lr))
            last = runs[-1]
            print(
                f"seed {seed}, kernels {kernels:<5} {count} threads, maps in {kept}: last loss "
                f"{last['epochs'][-1]['train_loss']:.4f}, test accuracy "
                f"{last['test_accuracy']:.4f}",
                flush=True,
            )
    torch.set_num_threads(threads)
    settings = {"data": DATA, "preset": PRESET, "lr": arguments.lr, "threads": threads}
    write(arguments.out, {**settings, "runs": runs})


if __name__ == "__main__":
    main()
