from __future__ import annotations

import errno
import os
import subprocess
import sys
import types

import pytest

from xception import __version__
from xception.cli.main import COMMANDS, main
from xception.errors import UsageError, XceptionError


@pytest.fixture
def raising(monkeypatch):
    """Make a command that raises what it is given."""

    def make(error: BaseException) -> None:
        def run(argv):
            raise error

        module = types.ModuleType("xception_test_command")
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "fail", (module.__name__, "fails"))

    return make


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


def test_no_command_is_wrong_usage(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: xception COMMAND")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["predcit"], "there is no command 'predcit'; did you mean predict?"),
        (["zzz"], f"there is no command 'zzz'; the commands are {', '.join(COMMANDS)}"),
        (["--zzz"], "there is no option '--zzz'; the commands are"),
    ],
)
def test_unknown_command(words, line, capsys):
    assert main(words) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, capsys):
    assert main([command, "--help"]) == 0
    first = capsys.readouterr().out
    assert f"usage: xception {command}" in first
    assert main(["help", command]) == 0
    assert capsys.readouterr().out == first


def test_version_says_what_a_bug_report_needs(capsys):
    assert main(["--version"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["xception"] == __version__
    assert {"python", "torch", "torchvision", "platform", "cpu", "threads", "cuda"} <= set(rows)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (XceptionError("cat.jpg: is\nno cat"), 1, "xception: error: cat.jpg: is no cat"),
        (UsageError("--x and --y"), 2, "xception: error: --x and --y"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.csv"),
            1,
            "xception: error: x.csv: no space left on device; free some space, then try again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x.csv"),
            1,
            "xception: error: x.csv: permission denied; choose a place that you may read and write",
        ),
        (MemoryError(), 1, "xception: error: out of memory; use a smaller --batch-size"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            "xception: error: out of memory;",
        ),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "xception: internal error: ZeroDivisionError: division by zero (run again with --debug",
        ),
        (KeyboardInterrupt(), 130, "xception: interrupted"),
        (BrokenPipeError(), 141, None),
    ],
)
def test_every_error_is_one_line(error, code, line, raising, capsys):
    raising(error)
    assert main(["fail"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    if line is None:
        assert captured.err == ""
    else:
        assert captured.err.startswith(line)
        assert captured.err.count("\n") == 1


def test_debug_anywhere_shows_the_traceback(raising, capsys):
    raising(ZeroDivisionError("oh"))
    assert main(["fail", "a", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_words_after_two_dashes_are_not_ours(raising, capsys):
    raising(ZeroDivisionError("oh"))
    main(["fail", "--", "--debug"])
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(model_file, pictures):
    code = (
        f"{sys.executable} -m xception predict {model_file} {pictures} --json | true; "
        "exit ${PIPESTATUS[0]}"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # whether all fitted into the pipe before it closed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_screen_with_few_characters(encoding, model_file, pictures):
    (pictures / "1.png").rename(pictures / "\u0431\u2026.png")
    words = [sys.executable, "-m", "xception", "predict", str(model_file), str(pictures)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(words, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u0431\\u2026.png" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is played by /dev/full")
def test_a_full_disk_behind_standard_output(model_file, pictures):
    words = [sys.executable, "-m", "xception", "predict", str(model_file), str(pictures), "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "xception: error: no space left on device; free some space, then try again\n"
    )
