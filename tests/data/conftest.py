"""Pictures and folders that the data tests are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xception.data.samples import ArraySamples


@pytest.fixture
def noise() -> Callable[..., Image.Image]:
    """noise(width, height, seed) -> RGB picture of random pixels."""

    def make(width: int = 20, height: int = 16, seed: int = 0) -> Image.Image:
        rng = np.random.default_rng(seed)
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make


@pytest.fixture
def class_folder(tmp_path: Path, noise: Callable[..., Image.Image]) -> Callable[..., Path]:
    """class_folder({"train/cat": 3, "train/dog": 2}) -> folder with that many PNG files."""

    def make(counts: dict[str, int], root: str = "pictures") -> Path:
        top = tmp_path / root
        top.mkdir(exist_ok=True)
        seed = 0
        for place, count in counts.items():
            folder = top / place
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed += 1
                noise(8, 6, seed).save(folder / f"{number:03}.png")
        return top

    return make


@pytest.fixture
def array_samples() -> Callable[..., ArraySamples]:
    """array_samples(count, side) -> RGB pictures of random pixels in memory."""

    def make(count: int = 12, side: int = 10, labels: Sequence[int] | None = None) -> ArraySamples:
        rng = np.random.default_rng(0)
        pictures = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        chosen = list(labels) if labels is not None else [i % 3 for i in range(count)]
        return ArraySamples(pictures, chosen, [f"noise/{i}" for i in range(count)])

    return make
