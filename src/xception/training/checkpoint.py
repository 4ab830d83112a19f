"""The state of a run on disk: written beside its name, synced, then renamed over it.

A checkpoint is read with `weights_only`, so nothing in the file can run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from xception.atomic import write_atomically
from xception.errors import TrainingError

FORMAT_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`.

    Raises TrainingError when the disk is full or the folder is gone; an older file stays as it was.
    """
    failures: list[OSError] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            path,
            lambda file: torch.save(
                {"format": FORMAT_VERSION, **state},
                cast("IO[bytes]", _FileThatTells(file, failures)),
            ),
        )
    except (OSError, RuntimeError) as error:
        reason = next((e for e in (*failures, error) if isinstance(e, OSError)), error)
        raise TrainingError(
            f"cannot write checkpoint {path}: {getattr(reason, 'strerror', reason)}; make room, "
            "then go on with --resume"
        ) from None


class _FileThatTells:
    """A file that keeps the OSError of a failed write: torch.save shows another in its place."""

    def __init__(self, file: BinaryIO, failures: list[OSError]) -> None:
        self._file = file
        self._failures = failures

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self._failures.append(error)
            raise

    def flush(self) -> None:
        self._file.flush()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; raises TrainingError when it is missing or damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"there is no checkpoint {path}; nothing to resume") from None
    except Exception as error:  # a damaged file makes torch and pickle raise nearly anything
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"checkpoint {path} is damaged: {line[:200]}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT_VERSION:
        raise TrainingError(f"{path} is not a checkpoint that this version of xception can read")
    return state
