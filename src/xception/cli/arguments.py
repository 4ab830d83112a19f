"""From a dataclass and the words of a command line to its values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

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
Folder = Annotated[Path | None, unset("FOLDER", "write none")]


def parse(
    arguments: type[T],
    command: str,
    description: str,
    argv: Sequence[str],
    default: T | None = None,
) -> T:
    """The fields' comments are the help; `--help` and wrong words end in SystemExit.

    default: values that the words change; the fields' own by default
    """
    if "-h" in argv or "--help" in argv:
        print(f"{description}\n")  # tyro would join its lines, and not wrap what it has joined
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        arguments,
        prog=f"xception {command}",
        description="",
        args=list(argv),
        config=(tyro.conf.FlagCreatePairsOff,),
        **options,
    )
