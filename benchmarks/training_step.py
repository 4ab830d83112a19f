"""Time and memory of a training step: ours against peers, each as users run it and tuned.

    python benchmarks/training_step.py [--case xception-299 tiny-32] [--rounds 9]

Each contender lives in a process of its own and waits for its turn; all take one step a round, so
that a machine that grows slower slows all alike. "as is" is a peer in channels_last with glibc's
allocator as it comes, "tuned" is the same after our `tune_allocator`; both eager and compiled.
"ours" is what `xception train` runs; it is measured once more with the feature maps that wait for
backward kept in bfloat16 (`xception.compress_saved_activations`).
Writes benchmarks/results/training_step.json.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from contextlib import nullcontext
from typing import Any

from record import add_out, write
from turns import Contender, answer

WARM_UP = 3
COMPRESSED = "ours, maps kept in bfloat16"


def contenders(case: str) -> list[str]:
    """Names of the form "network, form, allocator"; ours first."""
    from peers import CASES

    names = ["ours", COMPRESSED]
    for peer in CASES[case][3]:
        for form in ("eager", "compiled"):
            names += [f"{peer}, {form}, as is", f"{peer}, {form}, tuned"]
    return names


def work(case: str, contender: str) -> None:
    """A contender's process: one step for each line that arrives, its seconds and memory back."""
    import torch
    from peers import CASES, seconds_of_steps

    from xception import compress_saved_activations, tune_allocator

    shape, classes, ours, peers = CASES[case]
    peer, _, rest = contender.partition(", ")
    if peer == "ours" or rest.endswith("tuned"):
        tune_allocator()
    build = ours if peer == "ours" else peers[peer]
    model = build().train().to(memory_format=torch.channels_last)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if rest.startswith("compiled"):
        model = torch.compile(model)
    within = compress_saved_activations if contender == COMPRESSED else nullcontext
    step = seconds_of_steps(model, shape, classes, within)
    for _ in range(WARM_UP):
        step()

    def respond(_: str) -> tuple[float, int]:
        return step(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    answer(respond)


def run_case(case: str, rounds: int) -> dict[str, Any]:
    """All figures of one case; the machine's peak is measured once a round."""
    import torch
    from fma_peak import FmaPeak

    processes = {}
    for name in contenders(case):
        process = Contender([__file__, "--worker", case, name])
        if process.is_ready:
            processes[name] = process
        else:
            print(f"{case}: {name} cannot run here", file=sys.stderr)
    peak = FmaPeak(torch.get_num_threads())
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    memory: dict[str, float] = {}
    for _ in range(rounds):
        peak.measure()
        for name, process in list(processes.items()):
            reply = process.ask()
            if reply is None:
                print(f"{case}: {name} died", file=sys.stderr)
                del processes[name], seconds[name]
                continue
            taken, kilobytes = reply
            seconds[name].append(taken)
            memory[name] = kilobytes / 1024
    for process in processes.values():
        process.close()
    rows = {
        name: {
            "median_s": round(statistics.median(values), 4),
            "least_s": round(min(values), 4),
            "most_s": round(max(values), 4),
            "memory_mb": round(memory[name]),
        }
        for name, values in seconds.items()
    }
    return {
        "contenders": rows,
        "best_peer_to_ours": show(case, rows),
        "gflop": round(gflop(case), 2),
        "fma_peak": peak.summary(),
    }


def gflop(case: str) -> float:
    """Of a step, by our network: forward, and twice as much backward; a multiply-add counts two."""
    from peers import CASES

    from xception.models import summarize, totals

    shape, _, ours, _ = CASES[case]
    return 3 * 2 * totals(summarize(ours(), shape[2])).macs * shape[0] * 1e-9


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
    add_out(parser, "training_step")
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    cases = {case: run_case(case, arguments.rounds) for case in arguments.case}
    write(arguments.out, {"rounds": arguments.rounds, "cases": cases})


if __name__ == "__main__":
    main()
