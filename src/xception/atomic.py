"""Writing a whole file or nothing: what stood there before stays until the new one is complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write to a temporary file beside `path`, sync it, and rename it to `path`.

    `content` is bytes, or a function that fills the open file. Raises OSError (or what `content`
    raises); whatever happens, `path` then holds what it held before and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        move_atomically(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_atomically(temporary: Path, path: Path) -> None:
    """Sync the whole and closed file `temporary`, and rename it to `path` in the same folder.

    Raises OSError; `path` then holds what it held before.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())  # else a crash after the rename could leave an empty file
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename last through a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
