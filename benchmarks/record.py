"""Results as JSON files, each with the machine and the versions that it was measured with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """`--out`, by default `results/NAME.json`."""
    parser.add_argument(
        "--out",
        type=Path,
        default=FOLDER / f"{name}.json",
        help=f"result file (default: benchmarks/results/{name}.json)",
    )


def write(path: Path, content: dict[str, Any], versions: dict[str, str] | None = None) -> None:
    """`content` and the environment; `versions` of packages that the environment does not name."""
    from xception.environment import describe_environment

    environment = {**describe_environment(), **(versions or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**content, "environment": environment}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"\nwritten: {path.name}")


def read(name: str, folder: Path = FOLDER) -> Any:
    """The result of that name, or None where it was not measured."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
