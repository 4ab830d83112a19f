"""Named recipes: what differs from the field defaults of `Recipe`."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Small pictures (28 to 64 pixels) on a CPU, from fresh weights.
    "small": {},
    # The same for a few thousand pictures and a few minutes.
    "demo": {"size": 28, "epochs": 20, "batch_size": 64, "lr": 0.1, "crop_padding": 1},
    # From weights that were trained on something else (`weights`): a fresh last layer first, then
    # everything, the rest of the network ten times as gently. Our choice of numbers.
    "fine-tune": {
        "crop": "resized",
        "epochs": 12,
        "batch_size": 32,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 0.1,
        "label_smoothing": 0.1,
        "dropout": 0.2,
        "freeze_epochs": 2,
        "freeze_norm": True,
        "backbone_lr": 0.1,
    },
}
