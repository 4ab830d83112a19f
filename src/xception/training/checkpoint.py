"""The state of a run on disk: written beside its name, synced, then renamed over it.

A checkpoint is read with `weights_only`, so nothing in the file can run code.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from xception.atomic import write_atomically
from xception.errors import TrainingError

FORMAT_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`.

    Raises TrainingError when the disk is full or the folder is gone; an older file stays as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save({"format": FORMAT_VERSION, **state}, file))
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(
            f"cannot write checkpoint {path}: {reason}; make room or choose another --out, then "
            "go on with --resume"
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; raises TrainingError when it is missing or damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"there is no checkpoint {path}; nothing to resume") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"checkpoint {path} is damaged: {line[:200]}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT_VERSION:
        raise TrainingError(f"{path} is not a checkpoint that this version of xception can read")
    return state
