"""Contenders called in turns, so that a machine that grows slower slows all of them alike.

`in_turns` calls functions of this process. A `Contender` is a process of its own, for what cannot
share one: allocators, threads and compilers are settled once for a process. Its script calls
`answer` and then does one thing, and says one line of JSON, for each line that it is asked.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def in_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, *, warm_up: int = 2, pause: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of every call, one a round; the rounds of the warm-up are not counted.

    pause: seconds before each call, in which the threads of the one before come to rest
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            time.sleep(pause)
            began = time.perf_counter()
            call()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and spread, in seconds, for a result file."""
    if len(seconds) == 1:
        first = median = third = seconds[0]
    else:
        first, median, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        "median_s": round(median, 6),
        "first_quartile_s": round(first, 6),
        "third_quartile_s": round(third, 6),
        "least_s": round(min(seconds), 6),
        "most_s": round(max(seconds), 6),
    }


class Contender:
    """A process that waits for its turn.

    python: the interpreter; environment: variables besides those of this process
    """

    def __init__(
        self,
        words: Sequence[str],
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [python, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **(environment or {})},
        )
        self.is_ready = self._line() == "ready"
        if not self.is_ready:
            self.close()

    def ask(self, what: str = "") -> Any:
        """Its answer; None when it has died."""
        assert self._process.stdin is not None
        try:
            print(what, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return None
        line = self._line()
        return json.loads(line) if line else None

    def close(self) -> None:
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def answer(respond: Callable[[str], Any]) -> None:
    """A contender's side: ready, then one answer a line until nobody asks any more."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(respond(line.strip())), flush=True)
