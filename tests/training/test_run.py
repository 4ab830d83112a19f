"""Whole runs on a handful of pictures: what is written, resumed, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xception.errors import DataError, RecipeError, TrainingError, UsageError
from xception.training import Progress, Recipe, RunFolder, run, train
from xception.training.checkpoint import load_checkpoint


class StopAfter(Progress):
    """Sends this process SIGINT at a given step, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, pictures: int, loss: float, accuracy: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def equal_runs(a: Path, b: Path) -> None:
    """Weights, averaged weights, optimizer, position and random numbers are the same bits."""
    first, second = (load_checkpoint(RunFolder(p).last) for p in (a, b))
    for key in ("model", "averaged"):
        for name, value in first[key].items():
            assert torch.equal(value, second[key][name]), (key, name)
    for index, value in first["optimizer"]["state"].items():
        other = second["optimizer"]["state"][index]["momentum_buffer"]
        assert torch.equal(value["momentum_buffer"], other)
    assert torch.equal(first["random"][0]["cpu"], second["random"][0]["cpu"])
    position, other = dict(first["position"]), dict(second["position"])
    assert position.pop("seconds") >= 0
    assert other.pop("seconds") >= 0
    assert position == other
    one, two = (load_file(RunFolder(p).model) for p in (a, b))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def metrics_without_time(folder: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "images_per_second")
    return [
        {k: v for k, v in row.items() if k not in timed} for row in RunFolder(folder).read_metrics()
    ]


def test_run_folder_holds_what_the_design_says(recipe: Recipe) -> None:
    result = train(recipe.replaced(trackers=("tensorboard",)))
    folder = result.folder
    assert result.evaluation is not None
    assert result.evaluation["count"] == 18
    assert result.evaluation["split"] == "test"
    assert Recipe.load(folder / "recipe.yaml").epochs == 2
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {
        "epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr",
        "seconds", "images_per_second", "skipped",
    }  # fmt: skip
    for name in ("environment.json", "evaluation.json", "report.html", "model.safetensors"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "checkpoints" / "best.pt").exists()
    assert list(folder.rglob("events.out.tfevents*"))
    assert not list(folder.rglob("*.tmp"))


def test_wrong_input_leaves_no_run_folder(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        train(recipe.replaced(data=str(tmp_path / "gone")))
    with pytest.raises(RecipeError, match="did you mean 'xception_tiny'"):
        train(recipe.replaced(model="xception_tin"))
    with pytest.raises(RecipeError, match="at least 71"):
        train(recipe.replaced(model="xception"))
    with pytest.raises(RecipeError, match="give --weights MODEL"):
        train(recipe.replaced(freeze_epochs=1))
    with pytest.raises(UsageError, match=r"'foo' is unknown; known: .*tensorboard"):
        train(recipe.replaced(trackers=("foo",)))
    with pytest.raises(RecipeError, match=r"segments \(4096\)"):
        train(recipe.replaced(segments=4096))
    assert not Path(recipe.out).exists()


class Kill(BaseException):
    """Stands for kill -9: nothing in the program catches it."""


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_killed_around_any_write_of_a_checkpoint_nothing_is_lost(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Two epochs write before and after validation, and the best ones once more.

    Whether the second one is better than the first hangs on rounding; if not, the last two calls
    are one.
    """
    save = run.save_checkpoint
    calls = 0

    def counted(path: Path, state: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        save(path, state)

    monkeypatch.setattr(run, "save_checkpoint", counted)
    whole = train(recipe.replaced(name="whole"))
    assert calls in (5, 6)
    last, calls = min(call + 1, calls), 0

    def killed(path: Path, state: dict[str, Any]) -> None:
        if calls == last - 1:
            raise Kill
        counted(path, state)

    monkeypatch.setattr(run, "save_checkpoint", killed)
    with pytest.raises(Kill):
        train(recipe.replaced(name="killed"))
    monkeypatch.undo()
    killed_folder = Path(recipe.out) / "killed"
    (killed_folder / "checkpoints" / ".last.pt.1.tmp").write_bytes(b"half")
    resumed = train(resume=killed_folder)
    equal_runs(whole.folder, resumed.folder)
    assert metrics_without_time(whole.folder) == metrics_without_time(resumed.folder)
    assert not list(killed_folder.rglob("*.tmp"))


def test_ctrl_c_in_the_last_step_is_heeded(recipe: Recipe) -> None:
    whole = train(recipe.replaced(name="whole"))
    steps = RunFolder(whole.folder).read_metrics()[-1]["step"]
    cut = train(recipe.replaced(name="cut"), progress=StopAfter(steps))
    assert cut.interrupted
    assert train(resume=cut.folder).evaluation == whole.evaluation


def test_ctrl_c_in_the_evaluation_says_how_to_go_on(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "finish", interrupted)
    progress = StopAfter(10**9)
    result = train(recipe, progress=progress)
    assert result.interrupted
    assert "--resume" in progress.lines[-1]
    monkeypatch.undo()
    assert train(resume=result.folder).evaluation is not None


def test_a_network_ruined_by_the_last_step_is_not_saved(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    sane = run.learning_rate
    last = 2 - 0.5 / 6  # middle of the last of six steps of the second epoch
    monkeypatch.setattr(
        run,
        "learning_rate",
        lambda r, epoch, n: 1e30 if epoch > last - 0.01 else sane(r, epoch, n),
    )
    with pytest.raises(TrainingError, match="loss became nan at step 12"):
        train(recipe)
    kept = load_checkpoint(RunFolder(Path(recipe.out) / "run").last)
    assert kept["position"]["epoch"] == 1
    assert max(float(v.abs().max()) for v in kept["model"].values()) < 1e6


def test_other_pictures_are_refused_on_resume(recipe: Recipe, tmp_path: Path) -> None:
    data = tmp_path / "own"
    shutil.copytree(recipe.data, data)
    cut = train(recipe.replaced(data=str(data)), progress=StopAfter(2))
    victim = data / "train" / "red" / "003.png"
    content = victim.read_bytes()
    victim.unlink()
    with pytest.raises(TrainingError, match="not those that run"):
        train(resume=cut.folder)
    victim.write_bytes(content)
    assert not train(resume=cut.folder).interrupted


def test_a_relative_path_means_the_same_from_another_folder(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(recipe.data).parent)
    cut = train(recipe.replaced(data=Path(recipe.data).name), progress=StopAfter(2))
    monkeypatch.chdir(tmp_path)
    assert not train(resume=cut.folder).interrupted


def test_unreadable_validation_pictures_are_counted_and_bounded(
    recipe: Recipe, tmp_path: Path
) -> None:
    data = tmp_path / "own"
    shutil.copytree(recipe.data, data)
    (data / "test").rename(data / "val")
    for picture in sorted((data / "val" / "red").iterdir())[:2]:
        picture.write_text("no picture")
    lenient = recipe.replaced(data=str(data), max_unreadable=0.5, epochs=1, warmup=0.0)
    result = train(lenient)
    assert RunFolder(result.folder).read_metrics()[-1]["skipped"] == 2
    with pytest.raises(DataError, match="2 of 18 pictures cannot be read"):
        train(lenient.replaced(name="strict", max_unreadable=0.01))


def test_an_edited_recipe_is_noticed_on_resume(recipe: Recipe) -> None:
    class Warnings(Progress):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warn(self, line: str) -> None:
            self.warnings.append(line)

    cut = train(recipe, progress=StopAfter(2))
    path = RunFolder(cut.folder).recipe
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    progress = Warnings()
    train(resume=cut.folder, progress=progress)
    assert any("recipe.yaml was changed" in line for line in progress.warnings)
    assert len(RunFolder(cut.folder).read_metrics()) == 2


def test_environment_variables_of_accelerate_change_nothing(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = train(recipe.replaced(name="one", epochs=1, warmup=0.0))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    two = train(recipe.replaced(name="two", epochs=1, warmup=0.0))
    equal_runs(one.folder, two.folder)


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"checkpoint_gradients": True}])
def test_other_ways_to_compute_learn_too(recipe: Recipe, changes: dict[str, Any]) -> None:
    # Steps of 8 pictures at the recipe's 0.05 diverge in bfloat16 on some numbers of threads.
    gentle = recipe.replaced(epochs=4, lr=0.01, **changes)
    first, *_, last = RunFolder(train(gentle).folder).read_metrics()
    assert last["train_loss"] < 0.5 * first["train_loss"]
    assert last["train_accuracy"] > 0.9


def test_patience_ends_the_run_where_nothing_gets_better(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    monkeypatch.setattr(run, "evaluate_batches", lambda *_: (1.0, next(accuracies)))
    result = train(recipe.replaced(epochs=5, patience=2, select="best"))
    assert [row["epoch"] for row in RunFolder(result.folder).read_metrics()] == [1, 2, 3, 4]
    again = train(resume=result.folder)  # it is over, whatever the recipe's epochs say
    assert len(RunFolder(again.folder).read_metrics()) == 4


def test_patience_needs_validation_pictures(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="patience needs validation pictures"):
        train(recipe.replaced(patience=2, val_fraction=0.0))
    assert not Path(recipe.out).exists()


def test_balanced_classes_train(recipe: Recipe) -> None:
    result = train(recipe.replaced(epochs=1, sampling="balanced", class_weights="balanced"))
    assert result.evaluation is not None
