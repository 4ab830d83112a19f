"""`xception COMMAND ...`: picks the command, and turns every error into one line and an exit code.

Neither torch nor a command's module is imported before a command is chosen, so that `--help` and a
mistyped command answer at once.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 141 the reader of the output
has gone (as `| head` does).
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress

from xception.errors import OtherProcessError, UsageError, XceptionError

COMMANDS = {  # name: (module whose `run(argv)` gives the exit code, what it does)
    "train": ("xception.cli.train", "train a classifier on pictures, or go on with a run"),
    "lr-range": ("xception.cli.lr_range", "look for the learning rate to train with"),
    "runs": ("xception.cli.runs", "list training runs and compare them"),
    "evaluate": ("xception.cli.evaluate", "measure a model on labelled pictures"),
    "predict": ("xception.cli.predict", "name what is on pictures"),
    "embed": ("xception.cli.embed", "write the features of pictures, for other programs"),
    "check": ("xception.cli.check", "look through a data set before training on it"),
    "models": ("xception.cli.models", "list the networks"),
    "convert": ("xception.cli.convert", "turn weights of one library into another's"),
    "info": ("xception.cli.info", "show a network or model file, layer by layer"),
}

EXAMPLES = (
    ("xception check pictures/", "is the data set sound?"),
    ("xception train pictures/", "a folder for each class -> runs/NAME/"),
    ("xception predict runs/NAME holiday/", "what is on these pictures?"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, prints errors to stderr."""
    _make_streams_safe()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = _taken(words, "--debug")
    verbose = _taken(words, "--verbose")
    if not (verbose or debug):
        warnings.simplefilter("ignore")  # of libraries, about themselves
    elif verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # the parser has printed help, or what is wrong
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BrokenPipeError:
        _discard_stdout()
        return 128 + 13
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        _say("xception: interrupted")
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        if not isinstance(error, OtherProcessError):
            _say(f"xception: {_line_for(error)}")
        return error.exit_code if isinstance(error, XceptionError) else 1


def _dispatch(words: list[str]) -> int:
    if words and words[0] == "help":
        words = [*words[1:2], "--help"]
    if not words:
        print(_help(), file=sys.stderr)
        return UsageError.exit_code
    first = words[0]
    if first in ("-h", "--help"):
        print(_help())
        return 0
    if first in ("-V", "--version"):
        from xception.environment import describe_environment

        described = describe_environment()
        width = max(map(len, described))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in described.items()))
        return 0
    if first not in COMMANDS:
        raise UsageError(_unknown(first))
    code: int = importlib.import_module(COMMANDS[first][0]).run(words[1:])
    return code


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    example_width = max(len(command) for command, _ in EXAMPLES) + 2
    return "\n".join(
        (
            "usage: xception COMMAND ...",
            "",
            "Train, evaluate and use Xception networks: image classifiers made of depthwise",
            "separable convolutions.",
            "",
            "commands:",
            *(f"  {name:<{width}}{summary}" for name, (_, summary) in COMMANDS.items()),
            "",
            "examples:",
            *(f"  {command:<{example_width}}# {comment}" for command, comment in EXAMPLES),
            "",
            "options:",
            "  --help      this, or after a command what it can do (xception train --help)",
            "  --version   versions and machine, for a bug report",
            "  --verbose   what the libraries underneath have to say, too",
            "  --debug     the traceback of an error",
        )
    )


def _unknown(word: str) -> str:
    near = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.6)
    kind = "option" if word.startswith("-") else "command"
    hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
    return f"there is no {kind} {word!r}; {hint}"


def _line_for(error: Exception) -> str:
    """One line: what is wrong, and what to do next."""
    if isinstance(error, XceptionError):
        return f"error: {_one_line(error)}"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        advice = {
            errno.ENOSPC: "; free some space, then try again",
            errno.EACCES: "; choose a place that you may read and write",
            errno.EROFS: "; choose a place that can be written",
        }.get(error.errno or 0, "")
        return f"error: {place}{error.strerror.lower()}{advice}"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return "error: out of memory; use a smaller --batch-size or smaller pictures"
    text = _one_line(error)
    return (
        f"internal error: {type(error).__name__}{': ' if text else ''}{text} "
        "(run again with --debug for the traceback)"
    )


def _is_out_of_memory(error: Exception) -> bool:
    """torch's own class for accelerators; on the CPU a RuntimeError that only its text tells."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _taken(words: list[str], option: str) -> bool:
    """Take a switch out of `words`, wherever it stands before a "--"."""
    end = words.index("--") if "--" in words else len(words)
    if option not in words[:end]:
        return False
    words[:end] = [word for word in words[:end] if word != option]
    return True


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # which escapes what it cannot hold


def _make_streams_safe() -> None:
    """A closed stream swallows what is written; a character it cannot hold becomes an escape."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # to the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Let the interpreter's last flush go nowhere, else it complains of the closed pipe again."""
    with suppress(OSError, ValueError):  # where stdout is no file there is nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
