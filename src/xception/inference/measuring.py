"""Which of several ways to compute the same is the fastest here: by trying them in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Input = TypeVar("Input")

ROUNDS = 3  # for all
CLOSE_ROUNDS = 7  # for those that are close to the fastest
CLOSE = 1.25  # a median so many times the least one is close to it
LASTING = 0.5  # seconds in all before any is left out: shorter ones a single moment may disturb
PAUSE = 0.03  # seconds before a call: threads of the one before go on spinning for a while
ENOUGH = 4.0  # seconds in all, once there have been the rounds
MAX_ROUNDS = 30


def median_seconds(runs: Mapping[str, Callable[[Input], object]], x: Input) -> dict[str, float]:
    """Median wall time of each of `runs` on `x`, in turns, so that a busy machine slows all alike.

    Each has been called before: first calls prepare what later ones use. What turns out to be far
    from the fastest is not tried further; what is close, more often, since a busy moment decides
    between two such. Of what was left out, the median is that of its turns by those of the fastest
    in the same turns, times the latter's median of all: the machine may have slowed down since.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    left = list(runs)
    began = time.perf_counter()
    for turn in range(MAX_ROUNDS):
        spent = time.perf_counter() - began
        if turn >= ROUNDS and spent > LASTING:
            left = _close(seconds, left)
            if len(left) == 1 or (turn >= CLOSE_ROUNDS and spent > ENOUGH):
                break
        for name in left:
            time.sleep(PAUSE)
            start = time.perf_counter()
            runs[name](x)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(left, key=lambda name: medians[name])
    for name in medians.keys() - set(left):
        meanwhile = statistics.median(seconds[fastest][: len(seconds[name])])
        medians[name] *= medians[fastest] / meanwhile
    return medians


def _close(seconds: Mapping[str, list[float]], names: list[str]) -> list[str]:
    medians = {name: statistics.median(seconds[name]) for name in names}
    least = min(medians.values())
    return [name for name in names if medians[name] <= CLOSE * least]
