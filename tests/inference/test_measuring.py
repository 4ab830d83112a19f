"""Candidates are called in turns, so that what slows the machine slows all alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xception.inference import measuring


class Clock:
    """Stands still but for what a candidate says it takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Between two calls: no candidate's time."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measuring, "time", made)
    return made


def runs_of(
    clock: Clock, calls: list[str], **seconds: list[float]
) -> dict[str, Callable[[int], None]]:
    """Each takes its seconds one after the other, the last of them ever after."""

    def run_of(name: str) -> Callable[[int], None]:
        def run(x: int) -> None:
            calls.append(name)
            own = seconds[name]
            clock.now += own.pop(0) if len(own) > 1 else own[0]

        return run

    return {name: run_of(name) for name in seconds}


def test_the_far_ones_are_dropped_after_some_turns(clock: Clock) -> None:
    calls: list[str] = []
    runs = runs_of(clock, calls, slow=[9.0, 0.5], quick=[0.25])  # a first turn that is disturbed
    found = measuring.median_seconds(runs, 1)
    assert calls == ["slow", "quick"] * measuring.ROUNDS
    assert found == {"slow": 0.5, "quick": 0.25}


def test_what_was_left_out_does_not_win_since_the_machine_slowed_down(clock: Clock) -> None:
    calls: list[str] = []
    three = [1.0, 1.0, 1.0]
    runs = runs_of(clock, calls, a=[*three, 1.6], b=[*three, 1.7], far=[1.3])
    found = measuring.median_seconds(runs, 1)
    assert found == pytest.approx({"a": 1.6, "b": 1.7, "far": 1.3 * 1.6})


def test_short_calls_are_not_left_out_for_a_single_moment(clock: Clock) -> None:
    calls: list[str] = []
    runs = runs_of(clock, calls, best=[0.04, 0.04, 0.004], other=[0.006])
    found = measuring.median_seconds(runs, 1)
    assert found == pytest.approx({"best": 0.004, "other": 0.006})


def test_the_close_ones_are_told_apart_by_more_turns(clock: Clock) -> None:
    """A busy moment of two turns would have decided for the slower one."""
    calls: list[str] = []
    runs = runs_of(clock, calls, best=[1.2, 1.2, 1.0], near=[1.1], far=[3.0])
    found = measuring.median_seconds(runs, 1)
    assert found == pytest.approx({"best": 1.0, "near": 1.1, "far": 2.5})
    assert calls[:9] == ["best", "near", "far"] * 3
    assert calls[9:] == ["best", "near"] * (measuring.CLOSE_ROUNDS - 3)


def test_short_calls_are_repeated_but_not_for_ever(clock: Clock) -> None:
    calls: list[str] = []
    tenth = [measuring.ENOUGH / 20]
    measuring.median_seconds(runs_of(clock, calls, a=tenth, b=tenth), 7)
    assert 20 <= len(calls) <= 24
    calls.clear()
    measuring.median_seconds(runs_of(clock, calls, a=[0.0], b=[0.0]), 7)  # takes no time at all
    assert calls == ["a", "b"] * measuring.MAX_ROUNDS
