"""Writing the report's files: whole or not at all, and one plain line where it fails."""

from __future__ import annotations

from pathlib import Path

from xception.atomic import write_atomically
from xception.errors import XceptionError


def write_file(path: Path, content: bytes, what: str) -> None:
    """Write `content` to `path`; an older file there stays until the new one is complete.

    `what` names the content in the error's line ("the report"). Raises `XceptionError` where the
    folder cannot be written or the disk is full.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise XceptionError(
            f"{path}: cannot write {what} ({error.strerror or error}); "
            "free some space or choose a folder that can be written, then try again"
        ) from error
