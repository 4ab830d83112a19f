"""Tuning the allocator says whether it was taken, and is never fatal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from xception.ops import allocator


def test_says_whether_it_was_taken() -> None:
    """In a process of its own: the setting cannot be undone."""
    code = "from xception.ops import tune_allocator; print(repr(tune_allocator()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("True", "False")


def test_other_systems_are_left_alone_and_told_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with caplog.at_level("INFO"):
        assert allocator.tune_allocator() is False
    assert caplog.messages == [
        "the allocator stays as it is: there is no glibc here, or it refuses"
    ]


def test_a_libc_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Musl())
    assert allocator.tune_allocator() is False


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_one_refused_setting_means_not_taken(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    class Glibc:
        gnu_get_libc_version = staticmethod(lambda: b"2.36")

        def __init__(self) -> None:
            self.calls = 0

        def mallopt(self, name: int, value: int) -> int:
            self.calls += 1
            return 0 if self.calls - 1 == refused else 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Glibc())
    assert allocator.tune_allocator() is False
