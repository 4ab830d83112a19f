"""From a dataclass and the words of a command line to its values."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from xception.errors import UsageError

T = TypeVar("T")


def unset(metavar: str, meaning: str) -> object:
    """For a field that may be None: what its value is called, and what None comes to."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {meaning})")


def word(metavar: str, hint: str = "") -> object:
    """For a field that is given without a flag: what it is called."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


Model = Annotated[str, tyro.conf.Positional, word("MODEL")]
Data = Annotated[str, tyro.conf.Positional, word("DATA")]
Switch = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Device = Annotated[str | None, unset("NAME", "cuda if there is one, else cpu")]
Runtime = Literal["auto", "torch", "onnxruntime", "openvino"]
Folder = Annotated[Path | None, unset("FOLDER", "write none")]


def parse(
    arguments: type[T],
    command: str,
    description: str,
    argv: Sequence[str],
    default: T | None = None,
) -> T:
    """The fields' comments are the help; `--help` ends in SystemExit.

    default: values that the words change; the fields' own by default

    Raises UsageError, one line, for words that do not fit.
    """
    if "-h" in argv or "--help" in argv:
        print(f"{description}\n")  # tyro would join its lines, and not wrap what it has joined
    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                arguments,
                prog=f"xception {command}",
                description="",
                args=list(argv),
                config=(tyro.conf.FlagCreatePairsOff,),
                **options,
            )
    except SystemExit as stop:
        if stop.code != UsageError.exit_code:
            raise
    raise UsageError(f"{_complaint(said.getvalue())}; see `xception {command} --help`")


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SIDE = "\N{BOX DRAWINGS LIGHT VERTICAL}"  # a blank where the screen cannot show it
_ROW = re.compile(rf"[{_SIDE} ] ( *)(.*?)[{_SIDE} ]*")
_NAME_INDENT = 4  # columns; what lies deeper explains a name, as the help does


def _complaint(box: str) -> str:
    """What tyro draws in a box, on one line: the complaint, and names that may have been meant.

    Rules part the box: the complaint comes first, the rest is help. tyro has no public way to
    its messages but this; a box that is drawn otherwise comes out whole, on one line.
    """
    parts: list[list[str]] = [[]]
    for line in _COLOUR.sub("", box).splitlines():
        row = _ROW.fullmatch(line)
        if row is None:
            continue  # an edge, or the title, which stands further left
        indent, text = row.groups()
        if not any(character.isalnum() for character in text):
            parts.append([])
        elif len(indent) <= _NAME_INDENT:
            parts[-1].append(text)
    complaint, *others = [" ".join(part) for part in parts if part] or [" ".join(box.split())]
    meant = [other for other in others if other.startswith(("Arguments similar", "Perhaps"))]
    return "; ".join(text[:1].lower() + text[1:].rstrip(".") for text in (complaint, *meant))
