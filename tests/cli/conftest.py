from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import xception

CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes with fresh weights."""
    model = xception.create_model("xception_tiny", num_classes=len(CLASSES))
    model.class_names = CLASSES
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    xception.save(model, path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three pictures, one of them below a folder, and other files."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(("1.png", "2.jpg", "below/3.PNG")):
        Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """train/ and test/ of three classes, four different pictures each."""
    root = tmp_path / "labelled"
    for s, split in enumerate(("train", "test")):
        for c, label in enumerate(CLASSES):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (30, 30), (40 * c, 30 * i, 100 * s)).save(folder / f"{i}.png")
    return root
