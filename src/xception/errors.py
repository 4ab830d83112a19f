"""The errors a user can meet: one line each, saying what is wrong and what to do next.

The command line prints it and exits with `exit_code`; `--debug` shows a traceback as well.
"""

from __future__ import annotations


class XceptionError(Exception):
    """Base of every error that is the input's or the machine's fault, not the program's."""

    exit_code = 1


class UsageError(XceptionError):
    """The command or call itself is wrong (unknown option, contradicting arguments)."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe field is unknown or its value is not allowed; the message names the field."""


class DataError(XceptionError):
    """A data source is missing, empty or cannot be used for what was asked."""


class PictureError(XceptionError):
    """One picture cannot be used.

    Attributes: `name` (path or other name of the picture), `reason` (what is wrong with it).
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # crosses process borders in data workers
        return type(self), (self.name, self.reason)


class ModelFileError(XceptionError):
    """A model file is missing, damaged, or does not describe a model this version can build."""


class OtherProcessError(XceptionError):
    """Another process of the same run had to stop, and says why itself."""


class TrainingError(XceptionError):
    """Training had to stop; the message says at which step and what was kept."""
