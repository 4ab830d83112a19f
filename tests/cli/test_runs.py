"""`xception runs`: the table, the settings that differ, the plot, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from xception.cli.main import main
from xception.errors import DataError
from xception.report.comparison import MOST_PLOTTED, differences, plot_runs, read_runs
from xception.training import Recipe


def write_run(
    folder: Path, name: str, accuracies: list[float], *, ended: bool = True, **fields: object
) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    recipe = Recipe(name=name, out=str(folder), model="xception_tiny", epochs=5, **fields)  # type: ignore[arg-type]
    recipe.save(path / "recipe.yaml")
    rows = [
        {"epoch": i + 1, "step": 9 * i, "train_loss": 2.0 / (i + 1), "train_accuracy": a - 0.01,
         "val_loss": 2.1 / (i + 1), "val_accuracy": a, "lr": 0.1, "seconds": 30.0,
         "images_per_second": 100.0, "skipped": 0}
        for i, a in enumerate(accuracies)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if ended:
        evaluation = {"split": "test", "count": 100, "top1": 0.5, "classes": ["a", "b"]}
        (path / "evaluation.json").write_text(json.dumps(evaluation))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path, "run-2", [0.2, 0.7, 0.6], lr=0.1)
    write_run(tmp_path, "run-10", [0.3, 0.4], lr=0.2, ended=False, flip=False)
    write_run(tmp_path, "run-1", [], lr=0.1, ended=False)
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs)]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("run-")]
    assert [line.split()[0] for line in lines] == ["run-1", "run-2", "run-10"]
    assert "3/5" in lines[1] and "0.7000 (2)" in lines[1] and "0.5000 test" in lines[1]
    assert "1.5" in lines[1]
    assert "2/5" in lines[2] and "test" not in lines[2]
    assert "0/5" in lines[0]
    settings = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert settings["lr"] == ["0.1", "0.1", "0.2"]
    assert settings["flip"] == ["true", "true", "false"]
    assert "name" not in settings and "epochs" not in settings


def test_only_some_in_that_order_as_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs), "--only", "run-10", "run-2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found] == ["run-10", "run-2"]
    assert found[1]["best_validation_accuracy"] == 0.7 and found[1]["best_epoch"] == 2
    assert found[1]["accuracy"] == 0.5 and found[0]["accuracy"] is None
    assert found[0]["recipe"]["lr"] == "0.2"


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(runs: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"curves.{ending}"
    assert main(["runs", str(runs), "--plot", str(path)]) == 0
    if ending == "png":
        with Image.open(path) as picture:
            assert picture.width > 1000
    else:
        assert "<svg" in path.read_text()[:1000]


def test_wrong_input_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, line in (
        ([str(runs / "gone")], "no such folder"),
        ([str(runs / "notes")], "there are no runs in it"),
        ([str(runs), "--only", "run-3"], "there is no run 'run-3'; it has run-1, run-2, run-10"),
        ([str(runs), "--plot", "a.pdf"], "--plot a.pdf must end in .png or .svg"),
        ([str(runs), "--only", "run-1", "--plot", "a.png"], "nothing to plot"),
    ):
        assert main(["runs", *words]) != 0
        error = capsys.readouterr().err
        assert error.startswith("xception: error: ") and error.count("\n") == 1
        assert line in error


def test_damaged_runs_are_listed_all_the_same(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "run-2" / "metrics.jsonl").write_text('{"epoch": 1\n\x00')
    (runs / "run-10" / "recipe.yaml").write_bytes(b"\xff: [")
    assert main(["runs", str(runs)]) == 0
    assert "run-10" in capsys.readouterr().out


def test_a_run_folder_itself_and_too_many(runs: Path) -> None:
    (one,) = read_runs(runs / "run-2")
    assert one.name == "run-2" and differences([one]) == {}
    with pytest.raises(DataError, match="too many"):
        plot_runs([one] * (MOST_PLOTTED + 1))
