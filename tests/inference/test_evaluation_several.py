"""Several processes that evaluate a share each find what one finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import xception

CLASSES = [f"class {i}" for i in range(7)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with weights of chance, and 53 pictures of seven classes; two are no pictures."""
    folder = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    model = xception.create_model("xception_tiny", num_classes=7)
    model.class_names = CLASSES
    xception.save(model, folder / "model.safetensors")
    rng = np.random.default_rng(0)
    for i in range(53):
        path = folder / "pictures" / CLASSES[i * i % 7] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
        if i in (3, 40):
            path.write_bytes(b"no picture")
    return folder


def evaluated(place: Path, processes: int, *words: str) -> tuple[dict[str, Any], str]:
    command = ["-m", "xception", "evaluate", "model.safetensors", "pictures", "--json"]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *command, *words],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 1, done.stderr  # two pictures cannot be read
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, Any]:
    return evaluated(place, 1, "--batch-size", "5")[0]


@pytest.mark.parametrize("processes", [2, 3])
def test_all_of_them_find_what_one_finds(
    place: Path, alone: dict[str, Any], processes: int
) -> None:
    found, said = evaluated(place, processes, "--batch-size", "4", "--out", "out")
    assert json.loads((place / "out" / "evaluation.json").read_text()) == found
    assert said.count("written:") == 1
    assert found["count"] == 51
    assert found.keys() == alone.keys()
    exact = {"count", "classes", "confusion", "top1", "top5", "skipped", "split", "model"}
    for key in exact:
        assert found[key] == alone[key], key
    for key in ("loss", "calibration_error", "top1_standard_error"):
        assert found[key] == pytest.approx(alone[key], rel=1e-5), key
    for key in ("per_class", "reliability"):
        for one, other in zip(found[key], alone[key], strict=True):
            agree(one, other)
    # Of chance, many are equally wrong; which of them are the first 24 hangs on rounding.
    assert len(found["mistakes"]) == len(alone["mistakes"]) == 24
    by_name = {mistake["name"]: mistake for mistake in alone["mistakes"]}
    common = [mistake for mistake in found["mistakes"] if mistake["name"] in by_name]
    assert len(common) >= 20
    for mistake in common:
        agree(mistake, by_name[mistake["name"]])
    probabilities = [mistake["probability"] for mistake in found["mistakes"]]
    assert probabilities == sorted(probabilities, reverse=True)


def agree(one: dict[str, Any], other: dict[str, Any]) -> None:
    numbers = [name for name, value in other.items() if isinstance(value, float)]
    assert one.keys() == other.keys()
    assert {n: one[n] for n in numbers} == pytest.approx({n: other[n] for n in numbers}, rel=1e-4)
    assert all(one[name] == value for name, value in other.items() if name not in numbers)


def test_more_processes_than_pictures(place: Path) -> None:
    """Some have nothing to do; what is wrong is told once all the same."""
    (place / "one" / "class 0").mkdir(parents=True, exist_ok=True)
    (place / "one" / "class 1").mkdir(exist_ok=True)
    for i in range(2):
        Image.new("RGB", (20, 20), (90 * i, 0, 0)).save(place / "one" / f"class {i}" / "a.png")
    words = ["-m", "xception", "evaluate", "model.safetensors", "one", "--json"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    done = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, cwd=place, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == 2
