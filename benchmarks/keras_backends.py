"""Keras's own Xception on JAX and TensorFlow beside ours: inference, and a training step.

    python benchmarks/keras_backends.py [--keras-python PATH] [--batch 8] [--rounds 3]

Keras and its backends may live in another environment, whose interpreter `--keras-python` names
(`pip install keras jax tensorflow` there; this one needs torch and xception alone). Every contender
is a process of its own that waits for its turn. Keras does as its users do: `predict_on_batch`, and
`train_on_batch` after `compile` with SGD and momentum, which compiles the step. "tuned" has glibc's
allocator set as `xception.tune_allocator` sets it. Ours answers by `xception.optimize` where ONNX
Runtime or OpenVINO is installed. All take every core (JAX and TensorFlow know no OMP_NUM_THREADS).
Writes benchmarks/results/keras_backends.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from record import add_out, write
from turns import Contender, answer, summary

BACKENDS = ("jax", "tensorflow")
CLASSES = 1000
TUNED = {  # what tune_allocator does, for a process that has no xception
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
WORKS = ("inference of 1", "inference of the batch", "training step")


def keras_calls(size: int, batch: int) -> dict[str, Callable[[], Any]]:
    """Keras's Xception on the backend that the environment names."""
    import keras
    import numpy

    model = keras.applications.Xception(
        weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    random = numpy.random.default_rng(0)
    pictures = random.standard_normal((batch, size, size, 3), dtype=numpy.float32)
    labels = random.integers(0, CLASSES, batch)
    return {
        WORKS[0]: lambda: model.predict_on_batch(pictures[:1]),
        WORKS[1]: lambda: model.predict_on_batch(pictures),
        WORKS[2]: lambda: model.train_on_batch(pictures, labels),
    }


def our_calls(size: int, batch: int) -> dict[str, Callable[[], Any]]:
    import torch
    from peers import our, seconds_of_steps

    import xception

    xception.tune_allocator()
    build = our("xception", num_classes=CLASSES)
    fast = xception.optimize(build().eval(), size=(size, size))
    pictures = torch.randn(batch, 3, size, size)
    model = build().train().to(memory_format=torch.channels_last)
    return {
        WORKS[0]: lambda: fast(pictures[:1]),
        WORKS[1]: lambda: fast(pictures),
        WORKS[2]: seconds_of_steps(model, (batch, 3, size, size), CLASSES),
    }


def work(contender: str, size: int, batch: int) -> None:
    """A contender's process: does the work that a line names, and says its seconds."""
    calls = (our_calls if contender == "ours" else keras_calls)(size, batch)

    def respond(name: str) -> float:
        began = time.perf_counter()
        calls[name]()
        return time.perf_counter() - began

    answer(respond)


def start(size: int, batch: int, keras_python: str) -> dict[str, Contender]:
    """Those that run here; what does not is named."""
    ready = {}
    for name in ("ours", *(f"{b}, {a}" for b in BACKENDS for a in ("as is", "tuned"))):
        backend, _, allocator = name.partition(", ")
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **(TUNED if allocator == "tuned" else {})}
        if backend != "ours":
            environment["KERAS_BACKEND"] = backend
        python = sys.executable if backend == "ours" else keras_python
        words = [__file__, "--worker", name, "--size", str(size), "--batch", str(batch)]
        contender = Contender(words, python, environment)
        if contender.is_ready:
            ready[name] = contender
        else:
            print(f"{name} cannot run here", file=sys.stderr)
    return ready


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every contender and work, in turns; the first round, which compiles, is dropped.

    One that died is left out.
    """
    seconds: dict[str, dict[str, list[float]]] = {
        name: {work: [] for work in WORKS} for name in contenders
    }
    for turn in range(rounds + 1):
        for work in WORKS:
            for name, contender in contenders.items():
                taken = contender.ask(work) if name in seconds else None
                if taken is None:
                    seconds.pop(name, None)
                elif turn > 0:
                    seconds[name][work].append(taken)
    for contender in contenders.values():
        contender.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keras-python", default=sys.executable, help="interpreter with Keras")
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    add_out(parser, "keras_backends")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.size, arguments.batch)
        return
    contenders = start(arguments.size, arguments.batch, arguments.keras_python)
    seconds = measure(contenders, arguments.rounds)
    rows = {
        name: {work: summary(values) for work, values in works.items()}
        for name, works in seconds.items()
    }
    for name, row in rows.items():
        figures = "".join(f"{row[work]['median_s']:>24.3f}" for work in WORKS)
        print(f"{name:<20}{figures}")
    content = {
        "rounds": arguments.rounds,
        "batch": arguments.batch,
        "size": arguments.size,
        "contenders": rows,
    }
    write(arguments.out, content, versions_of(arguments.keras_python))


def versions_of(python: str) -> dict[str, str]:
    """Of Keras and its backends, in the environment of that interpreter."""
    code = (
        "from importlib.metadata import version, PackageNotFoundError\n"
        f"for package in {('keras', *BACKENDS)!r}:\n"
        "    try: print(package, version(package))\n"
        "    except PackageNotFoundError: pass"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


if __name__ == "__main__":
    main()
