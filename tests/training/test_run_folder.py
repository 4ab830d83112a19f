from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from xception.errors import TrainingError, UsageError
from xception.training import Recipe, RunFolder, split_of_run, train


def test_a_taken_name_is_refused_and_nothing_is_touched(recipe: Recipe) -> None:
    taken = Path(recipe.out) / "run"
    taken.mkdir(parents=True)
    (taken / "precious").write_text("mine")
    with pytest.raises(UsageError, match=r"choose another --name$"):
        train(recipe)
    assert os.listdir(taken) == ["precious"]
    (taken / "checkpoints").mkdir()
    (taken / "checkpoints" / "last.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"or go on with --resume .*run$"):
        train(recipe)


def test_names_are_numbered_when_none_is_given(recipe: Recipe, pictures: Path) -> None:
    one = RunFolder.create(recipe.replaced(name=None))
    two = RunFolder.create(recipe.replaced(name=None))
    assert one.path.name == f"xception_tiny-{pictures.name}-1"
    assert two.path.name == f"xception_tiny-{pictures.name}-2"


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        train(resume=tmp_path)


def test_a_file_in_the_place_of_the_folder(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrainingError, match="cannot make run folder"):
        RunFolder.create(recipe.replaced(out=str(tmp_path / "file")))
    with pytest.raises(TrainingError, match="is a file"):
        RunFolder.create(recipe.replaced(out=str(tmp_path), name="file"))


def test_damaged_metrics_lose_no_good_row(recipe: Recipe) -> None:
    folder = RunFolder.create(recipe)
    rows = [{"epoch": 1, "x": 1.5}, {"epoch": 2, "x": 2.5}]
    whole = [json.dumps(row).encode() for row in rows]
    folder.metrics.write_bytes(
        b"\n".join([whole[0], b"\xff\xfe{", b"[1]", b'"text"', b"{}", whole[1], b'{"epoch": 3, "x'])
    )
    assert folder.read_metrics() == rows
    folder.keep_metrics_before(1)
    assert folder.read_metrics() == rows[:1]


def test_a_figure_that_is_no_number_is_not_written(recipe: Recipe) -> None:
    folder = RunFolder.create(recipe)
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append_metrics({"epoch": 1, "val_loss": float("nan")})


def test_a_vanished_folder_is_one_line(recipe: Recipe) -> None:
    folder = RunFolder.create(recipe)
    folder.recipe.unlink()
    folder.path.rmdir()
    with pytest.raises(TrainingError, match=r"cannot write into run folder .*No such file"):
        folder.append_metrics({"epoch": 1})


def test_environment_says_command_and_versions(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/xception", "train", "my pictures"])
    folder = RunFolder.create(recipe)
    folder.write_environment("cpu", 1)
    described = json.loads(folder.environment.read_text())
    assert described["command"] == "xception train 'my pictures'"
    assert {"xception", "torch", "python", "cpu", "device", "started"} <= set(described)


def test_the_split_of_a_run_is_found_for_its_own_data(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(recipe.replaced(seed=7))
    for model in (folder.path, folder.model):
        assert split_of_run(model, recipe.data) == (7, 0.2)
    assert split_of_run(folder.path, str(tmp_path)) is None
    assert split_of_run(tmp_path / "elsewhere.safetensors", recipe.data) is None
    monkeypatch.chdir(Path(recipe.data).parent)
    assert split_of_run(folder.path, Path(recipe.data).name) == (7, 0.2)


def test_a_run_is_found_again_by_its_launch(tmp_path: Path) -> None:
    """Only an unfinished one; one without a checkpoint is out of the way."""
    first, other, begun, finished = (
        RunFolder.create(Recipe(out=str(tmp_path), name=name))
        for name in ("first", "other", "begun", "finished")
    )
    for folder, launch in ((first, "a"), (other, "b"), (begun, "a"), (finished, "a")):
        folder.write_environment("cpu", 2, launch)
        if folder is not begun:
            folder.last.parent.mkdir()
            folder.last.write_bytes(b"a checkpoint")
    finished.evaluation.write_text("{}")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "environment.json").write_text("[")
    found = RunFolder.of_launch(tmp_path, "a")
    assert found is not None and found.path == first.path
    first.last.unlink()
    assert RunFolder.of_launch(tmp_path, "a") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finished", "odd", "other"]
