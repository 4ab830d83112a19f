"""Where results go: whole files or none, and a plain line before long work if that cannot be."""

from __future__ import annotations

import errno
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

from xception.atomic import write_atomically
from xception.errors import UsageError, XceptionError


def write_text(path: Path | None, fill: Callable[[TextIO], None]) -> None:
    """Call `fill` with standard output, or with a file that becomes `path` once it is complete.

    The file is opened first, so a place that cannot be written is known before `fill` works.
    Raises UsageError for a folder, XceptionError where the file cannot be written.
    """
    if path is None:
        fill(sys.stdout)
        return
    path = path.expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file name in it")
    try:
        if path.exists() and not path.is_file():  # a pipe or device: replacing it would remove it
            with path.open("w", encoding="utf-8", newline="\n") as file:
                fill(file)
        else:
            write_atomically(path.resolve(), lambda file: _fill_text(file, fill))
    except OSError as error:
        raise _cannot_write(path, error) from None


def _fill_text(file: BinaryIO, fill: Callable[[TextIO], None]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    fill(text)
    text.flush()
    text.detach()  # the file is closed by who has opened it


def write_binary(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    """Call `fill` with a file, open for writing anywhere in it, that becomes `path` once complete.

    It is opened first, as by `write_text`. Raises UsageError for what is no file, XceptionError
    where it cannot be written.
    """
    path = path.expanduser()
    if path.exists() and not path.is_file():  # a folder; or a device, where nothing can go back
        raise UsageError(f"{path} is no file; give the name of a file")
    try:
        write_atomically(path.resolve(), fill)
    except OSError as error:
        raise _cannot_write(path, error) from None


def writable_folder(path: Path) -> Path:
    """`path`, made if missing; XceptionError where no file can be written into it."""
    path = path.expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from None
    return path


def writable_file(path: Path) -> Path:
    """`path`, if a file of that name can be written, else UsageError or XceptionError."""
    path = path.expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file name in it")
    if not path.parent.is_dir():
        raise XceptionError(f"{path}: cannot be written (there is no folder {path.parent})")
    writable_folder(path.parent)
    return path


def check_figure(path: Path | None) -> None:
    """Raise UsageError where `--plot` names no kind of picture that is drawn."""
    if path is not None and path.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {path} must end in .png or .svg")


def _cannot_write(path: Path, error: OSError) -> XceptionError:
    reason = (error.strerror or str(error)).lower()
    advice = "free some space" if error.errno == errno.ENOSPC else "choose another place"
    return XceptionError(f"{path}: cannot be written ({reason}); {advice}")
