"""Training in several processes gives what one process gives; started as a user starts them."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xception.errors import UsageError
from xception.processes import Processes
from xception.training import Recipe, RunFolder
from xception.training.checkpoint import load_checkpoint

WORKER = Path(__file__).parent / "several_worker.py"
CASES = runpy.run_path(str(WORKER))["CASES"]


def torchrun(processes: int, *words: object) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc-per-node={processes}", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: list[str], expected: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == expected, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every case gave in one process, and in as many as it is for."""
    folder = tmp_path_factory.mktemp("steps")
    run([sys.executable, str(WORKER), str(folder)])
    for processes in sorted({case.processes for case in CASES.values()}):
        run(torchrun(processes, WORKER, folder))
    return folder


@pytest.mark.parametrize("name", [name for name in CASES if "counts nothing" not in name])
def test_gradients_are_those_of_one_process(steps: Path, name: str) -> None:
    case = CASES[name]
    alone = torch.load(steps / f"{name} 1-0.pt")
    assert any(key.startswith("gradient") for key in alone)
    assert any(key.startswith("gradient stem") for key in alone) != case.freezes_stem
    bound = 1e-12 if case.dtype == torch.float64 else 1e-4
    for index in range(case.processes):
        found = torch.load(steps / f"{name} {case.processes}-{index}.pt")
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            scale = max(1.0, float(value.double().abs().max()))
            torch.testing.assert_close(
                found[key], value, rtol=0, atol=bound * scale, msg=f"{index}, {key}"
            )


def test_a_share_of_one_picture_counts_nothing(steps: Path) -> None:
    """Of five pictures in four processes the last has two; the others have nothing to say."""
    name = "a share of one counts nothing"
    found = [torch.load(steps / f"{name} 4-{index}.pt") for index in range(4)]
    for key, value in found[3].items():
        is_statistic = "running" in key or "num_batches" in key
        assert is_statistic or all(torch.equal(value, other[key]) for other in found), key


def words_of(recipe: Recipe) -> list[object]:
    path = Path(recipe.out).parent / f"{recipe.name}.yaml"
    recipe.save(path)
    return ["-m", "xception", "train", "--recipe", path]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(RunFolder(folder).last)["model"])


def test_a_run_of_two_processes_is_that_of_one(recipe: Recipe) -> None:
    """float32 rounds otherwise in two shares; a step's losses must agree before that grows."""
    recipe = recipe.replaced(
        sync_bn=True, dropout=0.0, epochs=1, lr=0.01, trackers=("tensorboard",)
    )
    one, two = (recipe.replaced(name=name) for name in ("one", "two"))
    run([sys.executable, *map(str, words_of(one))])
    output = run(torchrun(2, *words_of(two)))
    assert "2 processes on cpu" in output
    assert output.count("run folder") == 1  # one of them speaks
    out = Path(recipe.out)
    assert sorted(path.name for path in out.iterdir()) == ["one", "two"]
    first, second = (RunFolder(out / name).read_metrics()[0] for name in ("one", "two"))
    assert second["step"] == first["step"] and second["val_accuracy"] is not None
    assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-4)
    assert second["val_loss"] == pytest.approx(first["val_loss"], rel=1e-3)
    for name in ("one", "two"):
        evaluation = json.loads((out / name / "evaluation.json").read_text())
        assert evaluation["count"] == 18  # every picture once
        assert len(list((out / name).rglob("events.out.tfevents*"))) == 2  # settings, figures
        described = json.loads((out / name / "environment.json").read_text())
        assert described["processes"] == {"one": "1", "two": "2"}[name]


def test_interrupted_and_resumed_by_two_processes_is_bit_for_bit(recipe: Recipe) -> None:
    recipe = recipe.replaced(epochs=12, cache="none", workers=1)
    whole, cut = (recipe.replaced(name=name) for name in ("whole", "cut"))
    out = Path(recipe.out)
    run(torchrun(2, *words_of(whole)))
    process = subprocess.Popen(
        torchrun(2, *words_of(cut)), env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for(RunFolder(out / "cut").last.exists, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    position = load_checkpoint(RunFolder(out / "cut").last)["position"]
    assert position["step"] > 0 and position["epoch"] < 12
    run(torchrun(2, "-m", "xception", "train", "--resume", out / "cut"))
    a, b = final(out / "whole"), final(out / "cut")
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    one, two = (load_checkpoint(RunFolder(out / name).last)["random"] for name in ("whole", "cut"))
    assert len(one) == 2
    assert all(torch.equal(p["cpu"], q["cpu"]) for p, q in zip(one, two, strict=True))
    assert not torch.equal(one[0]["cpu"], one[1]["cpu"])  # dropout of its own


def test_too_small_shares_are_named(recipe: Recipe) -> None:
    output = run(torchrun(5, *words_of(recipe.replaced(adapt=False))), expected=1)
    assert "batch_size must be at least 10 for 5 processes" in output
    assert not Path(recipe.out).exists()


def test_an_error_of_the_first_process_is_told_once(recipe: Recipe) -> None:
    run([sys.executable, *map(str, words_of(recipe.replaced(epochs=1)))])
    output = run(torchrun(2, *words_of(recipe)), expected=1)
    assert output.count("is in use already") == 1
    assert "internal error" not in output


def test_unreadable_pictures_of_one_share(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(recipe.data, folder)
    for name in ("000", "007", "013"):
        (folder / "train" / "red" / f"{name}.png").write_bytes(b"no picture")
    recipe = recipe.replaced(data=str(folder), epochs=2, max_unreadable=0.5, freeze_epochs=0)
    output = run(torchrun(2, *words_of(recipe)))
    assert output.count("skipped ") == 3
    assert RunFolder(Path(recipe.out) / "run").read_metrics()[-1]["skipped"] == 3


def test_numbers_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="does not fit WORLD_SIZE 2; start the processes by"):
        Processes.started()
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(UsageError, match="RANK must be a number, got 'two'"):
        Processes.started()


def test_shares_are_neighbours_and_leave_nothing_out() -> None:
    processes = Processes()
    for count, length in itertools.product((1, 2, 3, 7), (0, 1, 2, 5, 64)):
        processes.count = count
        shares = []
        for index in range(count):
            processes.index = index
            shares.append(list(processes.share(range(length))))
        assert [place for share in shares for place in share] == list(range(length))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes by /proc")
def test_a_process_that_dies_is_replaced_and_the_run_goes_on(recipe: Recipe) -> None:
    recipe = recipe.replaced(epochs=12)
    out = Path(recipe.out)
    run(torchrun(2, *words_of(recipe.replaced(name="whole"))))
    recipe = recipe.replaced(name=None)  # found again without a name
    path = out.parent / "unnamed.yaml"
    recipe.save(path)
    command = torchrun(2, "-m", "xception", "train", "--recipe", path)
    command.insert(command.index("--standalone"), "--max-restarts=1")
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    (folder,) = wait_for(lambda: list(out.glob("xception_tiny-*")), process)
    wait_for(lambda: RunFolder(folder).last.exists(), process)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said[-3000:]
    assert said.count(f"started again: going on with {folder}") == 1
    assert len(list(out.iterdir())) == 2
    a, b = final(out / "whole"), final(folder)
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert RunFolder(folder).evaluation.exists()


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    while not found():
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    return found()
