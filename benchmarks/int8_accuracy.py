"""What int8 costs a trained network on all test pictures of its data.

    python benchmarks/int8_accuracy.py runs/cifar10=cifar10 runs/fashion=fashion-mnist

Each argument is a run folder or model file and the data that it is evaluated on (what
`xception evaluate` takes). The ranges of int8 are taken from training pictures; whatever it loses,
it is measured. The test pictures are seen in the evaluation alone. Writes
benchmarks/results/int8_accuracy.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import add_out, write

import xception
from xception.data.loader import evaluation_loader

CALIBRATION = 500  # training pictures
RUNTIMES = ("onnxruntime", "openvino")


def calibration(model: Any, source: Any) -> list[tuple[Any, Any]]:
    """Batches of training pictures and their classes, evenly taken from all of them."""
    samples = source.split("train")
    step = max(1, len(samples) // CALIBRATION)
    some = samples.select(range(0, len(samples), step))
    loader = evaluation_loader(some, model.preprocessing, 50)
    try:
        return [(batch.x, batch.y) for batch in loader.epoch()]
    finally:
        loader.close()


def measure(run: str, data: str) -> dict[str, Any]:
    model, source = xception.load(run).eval(), xception.open_data(data)
    exact = xception.evaluate(model, source)
    row: dict[str, Any] = {
        "model": model.architecture["name"],
        "data": Path(source.name).name,  # not where it lies here
        "pictures": exact.count,
        "float32": exact.top1,
        "standard_error": exact.top1_standard_error,
        "int8": {},
    }
    batches = calibration(model, source)
    row["calibration_pictures"] = sum(len(y) for _, y in batches)
    for runtime in RUNTIMES:
        fast = xception.optimize(
            model, runtime=runtime, precision="int8", calibration=batches, max_loss=1.0
        )
        found = xception.evaluate(fast, source)
        row["int8"][runtime] = {"top1": found.top1, "ran": str(fast.road)}
        print(
            f"{source.name}: float32 {exact.top1:.4f}, int8 by {runtime} {found.top1:.4f} "
            f"({100 * (found.top1 - exact.top1):+.2f} points)",
            flush=True,
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN=DATA")
    add_out(parser, "int8_accuracy")
    arguments = parser.parse_args()
    rows = [measure(run, data) for run, _, data in (a.partition("=") for a in arguments.runs)]
    write(arguments.out, {"networks": rows})


if __name__ == "__main__":
    main()
