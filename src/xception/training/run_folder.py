"""The folder of one run: recipe, environment, metrics, checkpoints, model, evaluation, report."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from xception.atomic import write_atomically
from xception.environment import describe_environment
from xception.errors import RecipeError, TrainingError, UsageError
from xception.training.recipe import Recipe


class RunFolder:
    """Paths and small files of `runs/NAME/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.evaluation = path / "evaluation.json"
        self.model = path / "model.safetensors"
        self.last = path / "checkpoints" / "last.pt"
        self.best = path / "checkpoints" / "best.pt"

    @classmethod
    def create(cls, recipe: Recipe) -> RunFolder:
        """A new folder for `recipe`; an existing run is never written into.

        Raises UsageError when the chosen name is taken, TrainingError when it can't be made.
        """
        out = Path(recipe.out)
        if recipe.name is not None:
            candidates = [out / recipe.name]
        else:
            data = re.sub(r"[^\w.-]+", "-", Path(recipe.data).stem or "data").strip("-.") or "data"
            stem = f"{recipe.model}-{data}"
            candidates = [out / f"{stem}-{number}" for number in range(1, 10_000)]
        for path in candidates:
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if not path.is_dir():
                    raise TrainingError(f"{path} is a file, not a run folder") from None
                if any(path.iterdir()):
                    continue
            except OSError as error:
                raise TrainingError(
                    f"cannot make run folder {path}: {error.strerror}; choose another --out"
                ) from None
            folder = cls(path)
            folder._write(folder.recipe, recipe.to_yaml())
            return folder
        taken = cls(candidates[-1])
        hint = f", or go on with --resume {taken.path}" if taken.last.exists() else ""
        raise UsageError(f"run folder {taken.path} is in use already; choose another --name{hint}")

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run; raises UsageError when `path` is none."""
        folder = cls(Path(path))
        if not folder.recipe.is_file():
            raise UsageError(f"{path} is not a run folder (it has no recipe.yaml)")
        for remains in (*folder.path.glob(".*.tmp"), *folder.last.parent.glob(".*.tmp")):
            remains.unlink(missing_ok=True)  # of a process that was killed while it wrote
        return folder

    def read_recipe(self) -> Recipe | None:
        """The recipe as the file has it now; None when it cannot be read as one."""
        try:
            return Recipe.load(self.recipe)
        except RecipeError:
            return None

    def discard(self) -> None:
        """Remove a folder in which no checkpoint was written yet: its name is free again."""
        if not self.last.exists():
            shutil.rmtree(self.path, ignore_errors=True)

    @classmethod
    def of_launch(cls, out: str | Path, launch: str) -> RunFolder | None:
        """The unfinished run that torchrun's `launch` began in `out`; None where there is none.

        One without a checkpoint is removed: it begins anew.
        """
        for path in sorted(Path(out).glob("*/environment.json")):
            folder = cls(path.parent)
            try:
                described = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if not isinstance(described, dict) or described.get("launch") != launch:
                continue
            if folder.evaluation.exists():
                continue
            if folder.last.exists():
                return folder
            folder.discard()
        return None

    def write_environment(self, device: str, processes: int = 1, launch: str | None = None) -> None:
        """What a bug report or a repetition needs to know of the machine and the versions."""
        described = {
            **describe_environment(),
            "device": device,
            "processes": str(processes),
            **({} if launch is None else {"launch": launch}),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        self._write(self.environment, json.dumps(described, indent=2))

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one epoch's figures."""
        self.guard(lambda: self._append(json.dumps(row, allow_nan=False) + "\n"))

    def keep_metrics_before(self, epoch: int) -> None:
        """Drop rows after `epoch` epochs: those that a resumed run writes again."""
        rows = [row for row in self.read_metrics() if row["epoch"] <= epoch]
        self._write(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows that are whole; a damaged line is left out."""
        rows = []
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError):
                    continue
                if isinstance(row, dict) and isinstance(row.get("epoch"), int):
                    rows.append(row)
        return rows

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Keep the evaluation for the report and for other programs."""
        self._write(self.evaluation, json.dumps(evaluation))  # ASCII: file names need not be text

    def _append(self, text: str) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _write(self, path: Path, text: str) -> None:
        self.guard(lambda: write_atomically(path, text.encode("utf-8")))

    def guard(self, write: Any) -> None:
        """Run `write()`; a full disk or a vanished folder becomes one plain line."""
        try:
            write()
        except OSError as error:
            raise TrainingError(
                f"cannot write into run folder {self.path}: {error.strerror}"
            ) from None


def split_of_run(model: str | Path, data: str) -> tuple[int, float] | None:
    """Seed and validation share with which the run of `model` split `data`.

    None when `model` is no run folder (or the model file in one), or was trained on other data.
    """
    path = Path(model)
    recipe = RunFolder(path if path.is_dir() else path.parent).read_recipe()
    if recipe is None:
        return None
    same = recipe.data in (data, str(Path(data).expanduser().absolute()))
    return (recipe.seed, recipe.val_fraction) if same else None
