"""How long starting takes: importing the package, `xception --help`, the first prediction.

    python benchmarks/import_time.py [--repeats 7]

Every figure is a fresh process, all kinds in turn so that a busy machine slows all alike. What is
compared with torch is the median of the differences within a turn. Prints a table and writes
benchmarks/results/import_time.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xception import create_model, save
from xception.environment import describe_environment

RESULTS = Path(__file__).parent / "results" / "import_time.json"

TORCH = "import torch"
PACKAGE = "import torch, xception"
FLOORS = "import torch, xception.ops, xception.nn, xception.models"
LIBRARY = FLOORS + ", xception; xception.load, xception.open_data, xception.Predictor"

BOUNDS = {  # seconds; for what is beyond torch, beyond `import torch`
    "import xception, beyond torch": 0.2,
    "import ops, nn, models, beyond torch": 0.2,
    "xception --help": 1.0,
    "xception predict of one picture, beyond torch": 3.0,
}


def seconds(words: list[str]) -> float:
    """Wall time of one run of Python with `words`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of each kind, one a turn; a first turn that fills the file cache is dropped."""
    from PIL import Image

    model, picture = folder / "model.safetensors", folder / "picture.png"
    save(create_model("xception_tiny", num_classes=10), model)
    Image.new("RGB", (32, 32)).save(picture)
    command = ["-m", "xception"]
    figures: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        torch = seconds(["-c", TORCH])
        row = {
            "import torch": torch,
            "import xception, beyond torch": seconds(["-c", PACKAGE]) - torch,
            "import ops, nn, models, beyond torch": seconds(["-c", FLOORS]) - torch,
            "the same, data, weights, inference, beyond torch": seconds(["-c", LIBRARY]) - torch,
            "xception --help": seconds([*command, "--help"]),
            "xception predict --help": seconds([*command, "predict", "--help"]),
            "xception predict of one picture, beyond torch": seconds(
                [*command, "predict", str(model), str(picture)]
            )
            - torch,
        }
        for name, value in row.items():
            if turn > 0:
                figures.setdefault(name, []).append(value)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(repeats, Path(folder))
    table = {
        name: {
            "median": round(statistics.median(values), 4),
            "least": round(min(values), 4),
            "most": round(max(values), 4),
            "bound": BOUNDS.get(name),
        }
        for name, values in figures.items()
    }
    print(f"{'seconds':<50}{'median':>8}{'least':>8}{'most':>8}{'bound':>8}")
    for name, row in table.items():
        bound = "" if row["bound"] is None else f"{row['bound']:.1f}"
        print(f"{name:<50}{row['median']:8.3f}{row['least']:8.3f}{row['most']:8.3f}{bound:>8}")
    result = {"unit": "s", "n": repeats, "environment": describe_environment(), "figures": table}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {RESULTS.name}")


if __name__ == "__main__":
    main()
