"""How the time of a training step grows: with batch, picture size, width, segments and threads.

    python benchmarks/growth.py [--rounds 5] [--quantities batch threads ...] [--threads 2]

Ours, and where there is one the same network of others, in turns in one process whose allocator is
tuned (benchmarks/training_step.py has the peers as they come, and compiled). SGD with momentum,
channels_last. Prints a table and writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from fma_peak import FmaPeak
from peers import from_timm, our, our_tiny, plain_tiny, seconds_of_steps
from record import add_out, write
from torch import nn
from turns import in_turns, summary

from xception import tune_allocator

SPEED_UP = 1.8  # the bar: two threads against one, in training at 299 pixels
OUR_XCEPTION = our("xception", padding="torch")
XCEPTIONS = {"ours": OUR_XCEPTION, "timm legacy_xception": from_timm("legacy_xception")}
TINIES = {"ours": our_tiny, "plain torch": plain_tiny}


@dataclass(frozen=True)
class Point:
    """One place on a curve: the networks that are compared there, and on what."""

    value: float | str
    networks: Mapping[str, Callable[[], nn.Module]]
    batch: int
    size: int  # pixels
    classes: int
    threads: int


def batch_small(threads: int) -> Iterator[Point]:
    for batch in (1, 2, 4, 8, 16, 32, 64, 128):
        yield Point(batch, TINIES, batch, 32, 10, threads)


def batch(threads: int) -> Iterator[Point]:
    for batch in (1, 2, 4, 8):
        yield Point(batch, XCEPTIONS, batch, 150, 1000, threads)


def size(threads: int) -> Iterator[Point]:
    for pixels in (75, 107, 150, 203, 251, 299):
        yield Point(pixels, XCEPTIONS, 2, pixels, 1000, threads)


def width(threads: int) -> Iterator[Point]:
    for factor in (0.5, 1, 1.5, 2, 3, 4):
        networks = {name: partial(build, factor) for name, build in TINIES.items()}
        yield Point(factor, networks, 32, 32, 10, threads)


def segments(threads: int) -> Iterator[Point]:
    for number in (1, 2, 4, 8, 16, 32, "channels"):
        networks = {"ours": our("xception_tiny", num_classes=10, segments=number)}
        if number == "channels":
            networks["plain torch"] = plain_tiny
        yield Point(number, networks, 32, 32, 10, threads)


def threads(most: int) -> Iterator[Point]:
    number = 1
    while number <= most:
        yield Point(number, XCEPTIONS, 8, 299, 1000, number)
        number *= 2


QUANTITIES: dict[str, Callable[[int], Iterator[Point]]] = {
    "batch_small": batch_small,
    "batch": batch,
    "size": size,
    "width": width,
    "segments": segments,
    "threads": threads,
}


def measure(point: Point, rounds: int, peak: FmaPeak) -> dict[str, Any]:
    """Seconds of a step of every network there."""
    torch.set_num_threads(point.threads)
    steps = {}
    for name, build in point.networks.items():
        torch.manual_seed(0)
        model = build().train().to(memory_format=torch.channels_last)
        shape = (point.batch, 3, point.size, point.size)
        steps[name] = seconds_of_steps(model, shape, point.classes)
    seconds = in_turns(steps, rounds)
    return {
        "value": point.value,
        "batch": point.batch,
        "size": point.size,
        "threads": point.threads,
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "fma_peak_gflops": round(peak.measure(), 1),
    }


def show(row: dict[str, Any]) -> None:
    figures = [f"{name} {1000 * s['median_s']:9.1f} ms" for name, s in row["seconds"].items()]
    print(f"  {row['value']!s:>10}   {'   '.join(figures)}", flush=True)


def speed_ups(rows: list[dict[str, Any]]) -> dict[str, float]:
    """One thread's time by two threads', for every network."""
    medians = {
        row["value"]: {name: s["median_s"] for name, s in row["seconds"].items()} for row in rows
    }
    if not {1, 2} <= medians.keys():
        return {}
    return {name: round(medians[1][name] / medians[2][name], 2) for name in medians[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quantities", nargs="+", choices=list(QUANTITIES), default=list(QUANTITIES)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--points", type=int, help="of each curve, the first so many")
    add_out(parser, "growth")
    arguments = parser.parse_args()
    tune_allocator()
    peaks: dict[int, FmaPeak] = {}
    curves: dict[str, list[dict[str, Any]]] = {}
    for quantity in arguments.quantities:
        print(f"\n{quantity}: a training step")
        most = min(arguments.threads, os.cpu_count() or 1)
        curves[quantity] = []
        for point in list(QUANTITIES[quantity](most))[: arguments.points]:
            if point.threads not in peaks:
                peaks[point.threads] = FmaPeak(point.threads)
            row = measure(point, arguments.rounds, peaks[point.threads])
            curves[quantity].append(row)
            show(row)
    two_threads = speed_ups(curves.get("threads", []))
    for name, ratio in two_threads.items():
        bar = f", wanted {SPEED_UP}" if name == "ours" else ""
        print(f"two threads against one, {name}: {ratio:.2f}x{bar}")
    write(
        arguments.out,
        {"rounds": arguments.rounds, "curves": curves, "two_threads_speed_up": two_threads},
    )


if __name__ == "__main__":
    main()
