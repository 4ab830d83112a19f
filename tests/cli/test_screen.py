"""What long work is at: a line a stage in a log, nothing that stays at a terminal."""

from __future__ import annotations

import io

import pytest

from xception.cli.screen import stages


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_a_stage(capsys):
    with stages("reading a") as stage:
        stage("comparing a")
        stage("writing\x1b[2J b")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["comparing a ...", "writing\N{REPLACEMENT CHARACTER}[2J b ..."]


def test_a_terminal_shows_what_is_going_on(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(ValueError), stages("reading a") as stage:
        stage("comparing [bold]a")
        raise ValueError
    shown = terminal.getvalue()
    assert "comparing [bold]a ..." in shown  # what is shorter than a twelfth of a second may not be
    assert shown.endswith("\x1b[1A\x1b[2K")  # the last line is wiped
