"""`xception embed MODEL PATH... --out FILE`: write the features of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import tyro

from xception.cli.arguments import Device, Model, Runtime, parse, word
from xception.cli.output import writable_file, write_binary
from xception.cli.screen import pictures, progress_bar, say
from xception.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from xception.inference import Embedding

DESCRIPTION = """Write the features of pictures, for search, clustering or another classifier.

PATH is a picture, a folder (searched through), a pattern such as
'holiday/**/*.jpg', or - for a list of paths on standard input, one a line. A
picture that cannot be read is reported and left out; the exit code is then 1,
and 0 where all could be read.

--out FILE.npy      a float32 array, a row a picture in the order of the paths,
                    and FILE.names.txt: line i is the path of row i
--out FILE.parquet  the columns path and features (needs xception[hub])

The features are what enters the network's last layer. --layer pool takes them
right behind the global pooling: before further layers of the head, if it has
any, which are trained for the model's own classes alone."""

ENDINGS = (".npy", ".parquet")


@dataclass(kw_only=True)
class Arguments:
    """What the command line can say."""

    # model file, run folder, weights of Keras or timm, or a published name
    model: Model
    # pictures, folders, patterns, or -
    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, word("PATH [PATH ...]", "(one or more)")
    ]
    # where to write; the name ends in .npy or .parquet
    out: Annotated[Path, word("FILE", "(required)")]
    # where the features are taken
    layer: Literal["pre_logits", "pool"] = "pre_logits"
    # pictures that go through the network at once
    batch_size: int = 32
    # cpu, cuda, cuda:1, mps
    device: Device = None
    # what runs the network; auto measures, where the work is long enough
    runtime: Runtime = "auto"


def run(argv: Sequence[str]) -> int:
    """Embed and write; 1 if any picture could not be read."""
    arguments = parse(Arguments, "embed", DESCRIPTION, argv)
    ending = arguments.out.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{arguments.out}: give a name that ends in {' or '.join(ENDINGS)}")
    out = writable_file(arguments.out)
    from xception.cli.paths import find_pictures
    from xception.inference.feature_file import require_parquet, write_npy, write_parquet

    if ending == ".parquet":
        require_parquet(str(out))
    paths = find_pictures(arguments.paths)
    tally = Tally()
    shapes: list[tuple[int, int]] = []

    def rows() -> Iterator[tuple[str, Tensor]]:
        from xception.cli.road import tell
        from xception.inference import embed_iter
        from xception.ops import tune_allocator

        tune_allocator()
        embeddings = embed_iter(
            arguments.model,
            paths,
            layer=arguments.layer,
            batch_size=arguments.batch_size,
            device=arguments.device,
            runtime=arguments.runtime,
            on_road=tell,
        )
        return tally.readable(embeddings, progress)

    def write_with_names(names: BinaryIO) -> None:
        write_binary(out, lambda file: shapes.append(write_npy(rows(), file, names)))

    written = [out]
    try:
        with progress_bar("embedding") as progress:
            if ending == ".parquet":
                write_binary(out, lambda file: shapes.append(write_parquet(rows(), file)))
            else:
                written.append(out.with_suffix(".names.txt"))
                write_binary(written[1], write_with_names)
    finally:
        tally.report()
    ((count, width),) = shapes
    say(f"written: {', '.join(map(str, written))} ({pictures(count)}, {width:,} features each)")
    return 1 if tally.failed else 0


@dataclass
class Tally:
    """Hands on what could be read, and counts the rest on the way."""

    count: int = 0
    failed: list[Embedding] = field(default_factory=list)

    def readable(
        self, embeddings: Iterable[Embedding], progress: Callable[[int, int | None], None]
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and features; DataError at the end where there was not one."""
        for embedding in embeddings:
            self.count += 1
            progress(self.count, None)
            if embedding.features is None:
                self.failed.append(embedding)
            else:
                yield embedding.name, embedding.features
        if self.count == 0:
            raise DataError("no picture was named, so nothing is written")
        if len(self.failed) == self.count:
            raise DataError(f"none of {pictures(self.count)} could be read, so nothing is written")

    def report(self) -> None:
        """Say on stderr which could not be read, if any."""
        for embedding in self.failed:
            say(f"skipped {embedding.name}: {embedding.error}")
        if 0 < len(self.failed) < self.count:
            say(f"{len(self.failed):,} of {pictures(self.count)} could not be read")
