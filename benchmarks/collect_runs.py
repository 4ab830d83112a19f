"""Gather finished run folders into one JSON file and a Markdown table.

python benchmarks/collect_runs.py runs/cifar10 --out benchmarks/results/small_networks.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml


def collect(folder: Path) -> dict[str, Any]:
    """The figures of one run, with what is needed to repeat it."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    del environment["command"]  # it holds paths of one machine; the recipe says the same
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe.update(data=Path(recipe["data"]).name, out="runs")
    if recipe["weights"] is not None:
        recipe["weights"] = Path(recipe["weights"]).name
    seconds = [row["seconds"] for row in rows]
    return {
        "run": folder.name,
        "recipe": recipe,
        "environment": environment,
        "epochs": len(rows),
        "seconds_per_epoch": {
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
        },
        "split": evaluation["split"],
        "pictures": evaluation["count"],
        "top1": evaluation["top1"],
        "top1_standard_error": evaluation["top1_standard_error"],
        "calibration_error": evaluation["calibration_error"],
        "metrics": rows,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """One line a run."""
    lines = [
        "| run | model | data | epochs | seed | test accuracy | s an epoch (median, min-max) |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        recipe, seconds = run["recipe"], run["seconds_per_epoch"]
        lines.append(
            f"| {run['run']} | {recipe['model']} | {recipe['data']} | {run['epochs']} "
            f"| {recipe['seed']} | {run['top1']:.4f} +- {run['top1_standard_error']:.4f} "
            f"| {seconds['median']:.0f} ({seconds['min']:.0f}-{seconds['max']:.0f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = [collect(folder) for folder in arguments.runs]
    arguments.out.write_text(json.dumps(runs, indent=1) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
