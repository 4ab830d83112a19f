"""A training step of other libraries' networks: as they are, and after `xception.fuse`.

    python benchmarks/fused_networks.py [--cases mobilenet_v2 ...] [--rounds 9] [--batch 16]

Each contender lives in a process of its own and waits for its turn; all take one step a round, so
that a machine that grows slower slows all alike. The peers run in channels_last, eager and
compiled, "as is" with glibc's allocator as it comes and "tuned" after our `tune_allocator`; fused
networks are measured both ways too. SGD with momentum, cross entropy of 1000 classes, random
pictures of 224x224. Networks of libraries that are not installed are left out. Writes
benchmarks/results/fused_networks.json.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from typing import Any

from record import add_out, write
from turns import Contender, answer, summary

WARM_UP = 3
SIZE = 224
TIMM = ("mobilenetv1_100", "legacy_xception")
CASES = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mnasnet1_0",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "convnext_tiny",
    *(f"timm {name}" for name in TIMM),
)
CONTENDERS = [
    f"{form}, {allocator}" for allocator in ("as is", "tuned") for form in ("eager", "compiled")
] + ["fused, as is", "fused, tuned"]


def builder(case: str) -> Callable[[], Any]:
    from peers import from_timm, from_torchvision

    library, _, name = case.rpartition(" ")
    return from_timm(name) if library == "timm" else from_torchvision(name)


def work(case: str, contender: str, batch: int) -> None:
    """A contender's process: one step for each line that arrives, its seconds and memory back."""
    import torch
    from peers import seconds_of_steps

    import xception

    form, _, allocator = contender.partition(", ")
    if allocator == "tuned":
        xception.tune_allocator()
    torch.manual_seed(0)
    model = builder(case)().train().to(memory_format=torch.channels_last)
    swapped = modules = 0
    if form == "fused":
        report = xception.fuse(model)
        swapped, modules = len(report.swapped), len(report.entries)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = seconds_of_steps(
        torch.compile(model) if form == "compiled" else model, (batch, 3, SIZE, SIZE), 1000
    )
    for _ in range(WARM_UP):
        step()

    def respond(_: str) -> tuple[float, int, int, int]:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return step(), memory, swapped, modules

    answer(respond)


def run_case(case: str, batch: int, rounds: int) -> dict[str, Any]:
    processes = {}
    for name in CONTENDERS:
        process = Contender([__file__, "--worker", case, name, "--batch", str(batch)])
        if process.is_ready:
            processes[name] = process
        else:
            print(f"{case}: {name} cannot run here", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    rows: dict[str, dict[str, float]] = {}
    swapped = [0, 0]
    for _ in range(rounds):
        for name, process in list(processes.items()):
            reply = process.ask()
            if reply is None:
                print(f"{case}: {name} died", file=sys.stderr)
                del processes[name], seconds[name]
                continue
            taken, kilobytes, *counts = reply
            seconds[name].append(taken)
            rows[name] = {"memory_mb": round(kilobytes / 1024)}
            swapped = counts if counts[1] else swapped
    for process in processes.values():
        process.close()
    rows = {name: {**summary(values), **rows[name]} for name, values in seconds.items()}
    return {
        "contenders": rows,
        "modules_swapped": swapped,
        "best_peer_to_fused": ratios(rows),
    }


def ratios(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of the better peer, as is and tuned, to the fused network with the allocator tuned."""
    found = {}
    fused = rows.get("fused, tuned")
    for allocator in ("as is", "tuned"):
        peers = [
            row["median_s"]
            for name, row in rows.items()
            if name.endswith(allocator) and not name.startswith("fused")
        ]
        if peers and fused:
            found[allocator] = round(min(peers) / fused["median_s"], 2)
    return found


def show(case: str, result: dict[str, Any]) -> None:
    swapped, modules = result["modules_swapped"]
    print(f"\n{case}: {swapped} of {modules} modules swapped; a step in seconds, memory")
    for name, row in result["contenders"].items():
        print(
            f"  {name:<20}{row['median_s']:8.3f}  {row['least_s']:.3f}-{row['most_s']:.3f}"
            f"{row['memory_mb']:8.0f} MB"
        )
    found = ", ".join(f"{name} {ratio:.2f}" for name, ratio in result["best_peer_to_fused"].items())
    print(f"  better peer / fused: {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    add_out(parser, "fused_networks")
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker, arguments.batch)
        return
    cases = {}
    for case in arguments.cases:
        cases[case] = run_case(case, arguments.batch, arguments.rounds)
        show(case, cases[case])
    write(
        arguments.out,
        {"rounds": arguments.rounds, "batch": arguments.batch, "size": SIZE, "cases": cases},
    )


if __name__ == "__main__":
    main()
