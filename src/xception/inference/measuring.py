"""Which of several ways to compute the same is the fastest here: by trying them in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Input = TypeVar("Input")

MIN_ROUNDS = 3
MAX_ROUNDS = 30
ENOUGH = 1.0  # seconds in all, once there have been MIN_ROUNDS


def median_seconds(runs: Mapping[str, Callable[[Input], object]], x: Input) -> dict[str, float]:
    """Median wall time of each of `runs` on `x`, in turns, so that a busy machine slows all alike.

    Each has been called before: first calls prepare what later ones use.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for turn in range(MAX_ROUNDS):
        if turn >= MIN_ROUNDS and time.perf_counter() - began > ENOUGH:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            run(x)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
