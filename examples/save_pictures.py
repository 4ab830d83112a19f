"""Write a few pictures of a data set as PNG files: python examples/save_pictures.py DATA FOLDER."""

from __future__ import annotations

import argparse
from pathlib import Path

from xception import open_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder, table or name of a data set")
    parser.add_argument("folder", type=Path, help="where the pictures go; made if missing")
    parser.add_argument("--count", type=int, default=12, help="how many (default: 12)")
    arguments = parser.parse_args()

    source = open_data(arguments.data)
    samples = source.split(source.evaluation_split())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for i in range(min(arguments.count, len(samples))):
        label = source.classes[samples.labels[i]].replace("/", "-").replace(" ", "-")
        samples.load(i).save(arguments.folder / f"{i:03d}-{label}.png")


if __name__ == "__main__":
    main()
