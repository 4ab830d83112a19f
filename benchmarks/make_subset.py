"""A smaller split of a folder of class folders, as a table that `xception train` takes.

    python benchmarks/make_subset.py CIFAR10_FOLDER subset.csv --train 2000 --test 2000

As many pictures of each class, chosen by the seed. The table names the pictures by absolute paths.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path


def chosen(folder: Path, count: int, seed: int) -> list[tuple[Path, str]]:
    """`count` pictures in all, as many of every class."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise SystemExit(f"{folder} has no class folders")
    generator = random.Random(seed)
    pairs = []
    for class_folder in classes:
        pictures = sorted(class_folder.iterdir())
        if len(pictures) < count // len(classes):
            raise SystemExit(f"{class_folder} has only {len(pictures)} pictures")
        picked = generator.sample(pictures, count // len(classes))
        pairs += [(picture.absolute(), class_folder.name) for picture in picked]
    return pairs


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with train/CLASS/ and test/CLASS/ in it")
    parser.add_argument("table", type=Path, help="the .csv file to write")
    parser.add_argument("--train", type=int, default=2000, help="training pictures")
    parser.add_argument("--test", type=int, default=2000, help="test pictures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with arguments.table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for split, count in (("train", arguments.train), ("test", arguments.test)):
            for path, label in chosen(arguments.folder / split, count, arguments.seed):
                writer.writerow([path, label, split])


if __name__ == "__main__":
    main()
