"""Time and memory of a training step: ours against peers, each as users run it and tuned.

    python benchmarks/training_step.py [--case xception-299 tiny-32] [--rounds 9]

Each contender lives in a process of its own and waits for its turn; all take one step a round, so
that a machine that grows slower slows all alike. "as is" is a peer in channels_last with glibc's
allocator as it comes, "tuned" is the same after our `tune_allocator`; both eager and compiled.
Ours is what `xception train` runs. Writes benchmarks/results/training_step.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
RESULTS = Path(__file__).parent / "results" / "training_step.json"
WARM_UP = 3


def contenders(case: str) -> list[str]:
    """Names of the form "network, form, allocator"; ours first."""
    from peers import CASES

    names = ["ours"]
    for peer in CASES[case][3]:
        for form in ("eager", "compiled"):
            names += [f"{peer}, {form}, as is", f"{peer}, {form}, tuned"]
    return names


def work(case: str, contender: str) -> None:
    """A contender's process: one step for each line that arrives, its seconds and memory back."""
    import torch
    from peers import CASES, seconds_of_steps

    from xception import tune_allocator

    shape, classes, ours, peers = CASES[case]
    peer, _, rest = contender.partition(", ")
    if contender == "ours" or rest.endswith("tuned"):
        tune_allocator()
    build = ours if contender == "ours" else peers[peer]
    model = build().train().to(memory_format=torch.channels_last)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if rest.startswith("compiled"):
        model = torch.compile(model)
    step = seconds_of_steps(model, shape, classes)
    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        seconds = step()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(seconds, memory, flush=True)


def run_case(case: str, rounds: int) -> dict[str, dict[str, float]]:
    processes = {}
    for name in contenders(case):
        command = [sys.executable, __file__, "--worker", case, name]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            print(f"{case}: {name} cannot run here", file=sys.stderr)
            continue
        processes[name] = process
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    memory: dict[str, float] = {}
    for _ in range(rounds):
        for name, process in processes.items():
            assert process.stdin is not None and process.stdout is not None
            print("step", file=process.stdin, flush=True)
            taken, peak = process.stdout.readline().split()
            seconds[name].append(float(taken))
            memory[name] = float(peak) / 1024
    for process in processes.values():
        process.communicate()
    return {
        name: {
            "median_s": round(statistics.median(values), 4),
            "least_s": round(min(values), 4),
            "most_s": round(max(values), 4),
            "memory_mb": round(memory[name]),
        }
        for name, values in seconds.items()
    }


def show(case: str, rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Print a table; return the ratios of the best peer to ours, as is and tuned."""
    ours = rows["ours"]
    print(f"\n{case}: a step in seconds (median, range), memory beyond the model, peer / ours")
    for name, row in rows.items():
        print(
            f"  {name:<40}{row['median_s']:8.3f}  {row['least_s']:.3f}-{row['most_s']:.3f}"
            f"{row['memory_mb']:8.0f} MB{row['median_s'] / ours['median_s']:7.2f}"
        )
    ratios = {}
    for allocator in ("as is", "tuned"):
        peers = [row["median_s"] for name, row in rows.items() if name.endswith(allocator)]
        if peers:
            ratios[allocator] = round(min(peers) / ours["median_s"], 2)
    print("  best peer / ours:", ", ".join(f"{k} {v:.2f}" for k, v in ratios.items()))
    return ratios


def main() -> None:
    from peers import CASES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    from xception.environment import describe_environment

    result: dict[str, object] = {"rounds": arguments.rounds, "cases": {}}
    cases = {}
    for case in arguments.case:
        rows = run_case(case, arguments.rounds)
        cases[case] = {"contenders": rows, "best_peer_to_ours": show(case, rows)}
    result["cases"] = cases
    result["environment"] = describe_environment()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {RESULTS.name}")


if __name__ == "__main__":
    main()
