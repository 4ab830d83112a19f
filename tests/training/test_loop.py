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
from xception.training import Progress, Recipe, RunFolder, train
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
    assert torch.equal(first["random"]["cpu"], second["random"]["cpu"])
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


@pytest.mark.parametrize("stop", [2, 8])
def test_interrupted_and_resumed_is_bit_for_bit_the_whole_run(recipe: Recipe, stop: int) -> None:
    whole = train(recipe.replaced(name="whole"))
    progress = StopAfter(stop)
    cut = train(recipe.replaced(name="cut"), progress=progress)
    assert cut.interrupted
    assert cut.report_path is None
    assert any("--resume" in line for line in progress.lines)
    assert (cut.folder / "model.safetensors").exists()
    torch.manual_seed(12345)  # another process would have other random numbers
    gone_on = train(resume=cut.folder)
    assert not gone_on.interrupted
    equal_runs(whole.folder, gone_on.folder)
    assert metrics_without_time(whole.folder) == metrics_without_time(gone_on.folder)
    assert whole.evaluation == gone_on.evaluation


def test_workers_do_not_change_the_result(recipe: Recipe) -> None:
    one = train(recipe.replaced(name="one", workers=0, epochs=1))
    two = train(recipe.replaced(name="two", workers=2, epochs=1, cache="none"))
    equal_runs(one.folder, two.folder)


def test_same_seed_same_run_other_seed_other_run(recipe: Recipe) -> None:
    one = train(recipe.replaced(name="one", epochs=1))
    two = train(recipe.replaced(name="two", epochs=1))
    other = train(recipe.replaced(name="other", epochs=1, seed=1))
    equal_runs(one.folder, two.folder)
    with pytest.raises(AssertionError):
        equal_runs(one.folder, other.folder)


def test_resuming_a_finished_run_changes_no_weights(recipe: Recipe) -> None:
    result = train(recipe)
    before = load_file(result.model_path)
    again = train(resume=result.folder)
    after = load_file(again.model_path)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert len(RunFolder(result.folder).read_metrics()) == 2


def test_diverging_loss_stops_and_keeps_the_last_good_checkpoint(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xception.training import loop

    sane = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda r, epoch: sane(r, epoch) if epoch < 1.4 else 1e30
    )
    with pytest.raises(
        TrainingError, match=r"loss became (nan|inf) at step \d+.*learning rate"
    ) as e:
        train(recipe)
    assert "checkpoint of epoch 1 stands" in str(e.value)
    folder = RunFolder(Path(recipe.out) / "run")
    kept = load_checkpoint(folder.last)
    assert kept["position"]["epoch"] == 1
    assert all(v.isfinite().all() for v in kept["model"].values())


def test_unreadable_pictures_are_named_once_and_bounded(
    recipe: Recipe, pictures: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(pictures, broken)
    victim = broken / "train" / "red" / "003.png"
    victim.write_bytes(victim.read_bytes()[:200])

    class Warnings(Progress):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warn(self, line: str) -> None:
            self.warnings.append(line)

    progress = Warnings()
    whole = recipe.replaced(data=str(broken), val_fraction=0.0)
    train(whole.replaced(max_unreadable=0.05), progress=progress)
    named = [line for line in progress.warnings if "003.png" in line]
    assert len(named) == 1
    assert RunFolder(Path(recipe.out) / "run").read_metrics()[-1]["skipped"] == 1
    with pytest.raises(DataError, match=r"003\.png"):
        train(whole.replaced(name="strict"))


def test_a_taken_name_is_refused_and_nothing_is_touched(recipe: Recipe) -> None:
    taken = Path(recipe.out) / "run"
    taken.mkdir(parents=True)
    (taken / "precious").write_text("mine")
    with pytest.raises(UsageError, match="choose another --name"):
        train(recipe)
    assert os.listdir(taken) == ["precious"]


def test_names_are_numbered_when_none_is_given(recipe: Recipe, pictures: Path) -> None:
    one = RunFolder.create(recipe.replaced(name=None))
    two = RunFolder.create(recipe.replaced(name=None))
    assert one.path.name == f"xception_tiny-{pictures.name}-1"
    assert two.path.name == f"xception_tiny-{pictures.name}-2"


def test_wrong_input_leaves_no_run_folder(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        train(recipe.replaced(data=str(tmp_path / "gone")))
    with pytest.raises(RecipeError, match="did you mean 'xception_tiny'"):
        train(recipe.replaced(model="xception_tin"))
    with pytest.raises(RecipeError, match="at least 71"):
        train(recipe.replaced(model="xception"))
    with pytest.raises(RecipeError, match="give --weights MODEL"):
        train(recipe.replaced(freeze_epochs=1))
    with pytest.raises(RecipeError, match=r"segments \(4096\)"):
        train(recipe.replaced(segments=4096))
    assert not Path(recipe.out).exists()


def test_fine_tuning_starts_from_a_model_file(recipe: Recipe) -> None:
    first = train(recipe.replaced(epochs=1))
    tuned = recipe.replaced(name="tuned", epochs=1, weights=str(first.model_path), freeze_epochs=1)
    result = train(tuned)
    before, after = load_file(first.model_path), load_file(result.model_path)
    for name, value in before.items():
        if not name.startswith("head.fc"):
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before["head.fc.weight"], after["head.fc.weight"])
    with pytest.raises(UsageError, match="set --model xception_tiny"):
        train(recipe.replaced(name="other", model="xception_small", weights=str(first.model_path)))


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        train(resume=tmp_path)
