"""Make the built-in data set: a stratified part of Fashion-MNIST, 5,000 + 1,000 pictures.

Needs the four IDX files of Fashion-MNIST in one folder (Debian: apt-get install
dataset-fashion-mnist). The same input gives the same bytes:

    python benchmarks/make_fashion_mnist_5k.py /usr/share/datasets/fashion-mnist OUTPUT_FOLDER
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np

from xception.data.idx import read_idx, write_idx

SEED = 20170825  # the day on which the data set's paper appeared
PER_CLASS = {"train": 500, "t10k": 100}
CLASSES = 10


def choose(labels: np.ndarray, per_class: int, rng: random.Random) -> list[int]:
    """Indices of `per_class` pictures of each class, in the order of the full data set."""
    chosen: list[int] = []
    for label in range(CLASSES):
        chosen.extend(rng.sample(np.flatnonzero(labels == label).tolist(), per_class))
    return sorted(chosen)


def main(source: Path, target: Path) -> None:
    """Read the full data set from `source`, write the part to `target`."""
    target.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    for part, per_class in PER_CLASS.items():
        pictures = read_idx(source / f"{part}-images-idx3-ubyte.gz", 3)
        labels = read_idx(source / f"{part}-labels-idx1-ubyte.gz", 1)
        chosen = choose(labels, per_class, rng)
        write_idx(target / f"{part}-images-idx3-ubyte.gz", pictures[chosen])
        write_idx(target / f"{part}-labels-idx1-ubyte.gz", labels[chosen])
        print(f"{part}: {len(chosen)} of {len(labels)} pictures")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
