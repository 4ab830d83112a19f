"""Named recipes: what differs from the field defaults of `Recipe`."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Small pictures (28 to 64 pixels) on a CPU, from fresh weights.
    "small": {},
    # The same for a few thousand pictures and a few minutes.
    "demo": {"size": 28, "epochs": 20, "batch_size": 64, "lr": 0.1, "crop_padding": 1},
    # The paper's on ImageNet (section 4.3): optimizer, learning rate and its decay, weight decay,
    # dropout, averaged weights. It does not state the rest, which is ours: that 0.045 is meant for
    # 1,600 pictures a step (as for Inception V3: Szegedy et al. 2015, section 8), momentum of the
    # plain kind, no decay of normalization, the decay of the average, crops of random size, epochs.
    "paper-imagenet": {
        "model": "xception",
        "crop": "resized",
        "crop_scale": (0.08, 1.0),
        "epochs": 100,
        "batch_size": 256,
        "adapt": False,
        "lr": 0.045,
        "lr_batch": 1600,
        "nesterov": False,
        "weight_decay": 1e-5,
        "no_decay": ("norm", "bias"),
        "schedule": "step",
        "warmup": 0.0,
        "dropout": 0.5,
        "averaging": 0.9999,
    },
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
