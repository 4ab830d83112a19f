"""A run folder as training writes it, in any size and with anything missing."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image


def png_uri(side: int = 28) -> str:
    """A grey square as the data URI that an evaluation holds."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def metrics_row(epoch: int, epochs: int) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    done = epoch / epochs
    return {
        "epoch": epoch,
        "step": 40 * epoch,
        "train_loss": 0.4 + 2 * math.exp(-4 * done),
        "train_accuracy": 0.95 - 0.5 * math.exp(-3 * done),
        "val_loss": 0.5 + 1.5 * math.exp(-4 * done),
        "val_accuracy": 0.9 - 0.4 * math.exp(-4 * done),
        "lr": 0.1 * (1 - done),
        "seconds": 9.0,
        "images_per_second": 560.0,
        "skipped": 0,
    }


def evaluation(classes: list[str], each: int = 50, mistakes: int = 4) -> dict[str, Any]:
    """An evaluation.json in which each class has `each` pictures and 10% go to the next class."""
    n = len(classes)
    wrong = each // 10
    confusion = np.eye(n, dtype=int) * (each - wrong)
    confusion[np.arange(n), (np.arange(n) + 1) % n] += wrong
    share = 1 - wrong / each
    return {
        "split": "test",
        "model": "averaged",
        "count": n * each,
        "classes": classes,
        "top1": share,
        "top5": 0.99 if n > 5 else None,
        "loss": 0.31,
        "calibration_error": 0.034,
        "confusion": confusion.tolist(),
        "per_class": [
            {
                "name": name,
                "count": each,
                "precision": share,
                "recall": share,
                "f1": share,
                "accuracy": share,
            }
            for name in classes
        ],
        "reliability": [
            {
                "confidence": (b + 0.5) / 15 if b > 3 else None,
                "accuracy": b / 15 if b > 3 else None,
                "count": 10 * b if b > 3 else 0,
            }
            for b in range(15)
        ],
        "mistakes": [
            {
                "name": f"shop/test/{i}.jpg",
                "label": classes[i % n],
                "prediction": classes[(i + 1) % n],
                "probability": 0.99 - i / 100,
                "label_probability": 0.01,
                "thumbnail": png_uri(),
            }
            for i in range(mistakes)
        ],
        "skipped": [{"name": "shop/test/broken.jpg", "reason": "image file is truncated"}],
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder and return it; `evaluation=None` and `model=False` leave files out."""

    def make(
        name: str = "shop",
        *,
        epochs: int = 5,
        evaluation: dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
        model: bool = True,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        fields = {"data": "shop-pictures", "model": "xception_tiny", "epochs": epochs, "lr": 0.1}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(fields | (recipe or {})))
        environment = {"xception": "0.1.0", "torch": "2.14.1", "threads": 2, "device": "cpu"}
        (folder / "environment.json").write_text(json.dumps(environment))
        rows = [json.dumps(metrics_row(epoch, epochs)) for epoch in range(1, epochs + 1)]
        (folder / "metrics.jsonl").write_text("".join(row + "\n" for row in rows))
        if evaluation is not None:
            (folder / "evaluation.json").write_text(json.dumps(evaluation))
        if model:
            (folder / "model.safetensors").write_bytes(b"")
        return folder

    return make


@pytest.fixture
def make_evaluation() -> Callable[..., dict[str, Any]]:
    """`evaluation(classes, each, mistakes)` as a fixture."""
    return evaluation
