"""A folder of small pictures that a network learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xception.training import Recipe

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def write_pictures(folder: Path, count: int, *, seed: int = 0, side: int = 16) -> Path:
    """`count` noisy squares of each colour in class folders."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise = rng.normal(0, 30, (side, side, 3)) + colour
            picture = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
            picture.save(folder / name / f"{index:03}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours, 20 training and 6 test pictures of each."""
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root / "train", 20)
    write_pictures(root / "test", 6, seed=1)
    return root


@pytest.fixture
def recipe(pictures: Path, tmp_path: Path) -> Recipe:
    """Two epochs of six steps, no trackers."""
    return Recipe(
        data=str(pictures),
        out=str(tmp_path / "runs"),
        name="run",
        model="xception_tiny",
        size=16,
        epochs=2,
        batch_size=8,
        lr=0.05,
        warmup=0.25,
        crop_padding=2,
        val_fraction=0.2,
        dropout=0.3,
        trackers=(),
    )
