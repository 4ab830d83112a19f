"""Candidates are called in turns, so that what slows the machine slows all alike."""

from __future__ import annotations

import pytest

from xception.inference import measuring


class Clock:
    """Stands still but for what a candidate says it takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measuring, "time", made)
    return made


def test_in_turns_and_medians(clock: Clock) -> None:
    calls: list[str] = []

    def slow(x: int) -> None:
        calls.append("slow")
        clock.now += 0.5 if len(calls) > 2 else 9.0  # a first turn that is disturbed

    def quick(x: int) -> None:
        calls.append("quick")
        clock.now += 0.25

    found = measuring.median_seconds({"slow": slow, "quick": quick}, 1)
    assert calls == ["slow", "quick"] * measuring.MIN_ROUNDS
    assert found == {"slow": 0.5, "quick": 0.25}


def test_short_calls_are_repeated_but_not_for_ever(clock: Clock) -> None:
    calls: list[int] = []

    def short(x: int) -> None:
        calls.append(x)
        clock.now += measuring.ENOUGH / 10

    measuring.median_seconds({"a": short}, 7)
    assert 10 <= len(calls) <= 12
    calls.clear()
    measuring.median_seconds({"a": calls.append}, 7)  # takes no time at all
    assert calls == [7] * measuring.MAX_ROUNDS
