"""One door to every data source: a folder, a table, or a data set's name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from xception.data.folder import list_folder
from xception.data.listing import Opening, source_from_listing
from xception.data.named import NAMED_DATA, open_named
from xception.data.samples import DataSource
from xception.data.table import TABLE_SUFFIXES, list_table, read_split_file
from xception.data.wording import path_text
from xception.errors import DataError, UsageError


def open_data(
    spec: str | os.PathLike[str],
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    classes: Sequence[str] | None = None,
    split_file: str | os.PathLike[str] | None = None,
    strict: bool = True,
) -> DataSource:
    """List the pictures of a data source, in classes and splits, without decoding them.

    Args:
        spec: a folder of class folders (perhaps below train/, val/ and test/), a table (.csv, .tsv
            or .parquet with the columns path, label and perhaps split), or one of the names
            fashion-mnist-5k (built in), fashion-mnist, cifar10, cifar100, imagenet. A path that
            exists goes before a name.
        seed: decides which training pictures become validation where the data have no such split.
        val_fraction: their share of each class, 0..1; 0 leaves the training pictures whole.
        classes: class names in the order of their indices, as a model has them; found from the
            data and naturally sorted by default. Data with other classes are refused, data that
            lack some are not.
        split_file: table with the columns path (relative to the data's folder) and split, which
            overrules the data's own splits; pictures that it does not name are left out.
        strict: False notes a class without training pictures among `problems` and goes on.

    Returns:
        A source that has the split "train", unless the data have "val" or "test" alone.

    Raises:
        DataError: nothing is there, or it is not in one of these forms.
        UsageError: `val_fraction` is not in 0..1, or `split_file` does not go with a named set.
    """
    text = os.fspath(spec)
    path = Path(text).expanduser()
    opening = Opening(seed=seed, val_fraction=val_fraction, classes=classes, strict=strict)
    if not os.path.lexists(path) and text in NAMED_DATA:
        if split_file is not None:
            raise UsageError(f"a split file does not go with the data set {text}, which has splits")
        return open_named(text, opening)
    if split_file is not None:
        opening = Opening(
            seed=seed,
            val_fraction=val_fraction,
            classes=classes,
            split_of=read_split_file(Path(split_file).expanduser()),
            strict=strict,
        )
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{path_text(text)}: cannot be opened ({error})") from None
    if is_folder:
        return source_from_listing(list_folder(path), opening)
    if not exists:
        raise DataError(f"{path_text(text)}: does not exist{_suggestion(text, path)}")
    if path.suffix.lower() in TABLE_SUFFIXES:
        return source_from_listing(list_table(path), opening)
    raise DataError(
        f"{path_text(text)}: is neither a folder nor a table; give a folder of class folders, or a "
        f"file that ends in {', '.join(TABLE_SUFFIXES)}"
    )


def _suggestion(text: str, path: Path) -> str:
    """What the user may have meant, or which names there are."""
    try:
        beside = {entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")}
    except OSError:
        beside = set()
    close = difflib.get_close_matches(path.name, sorted(beside), n=2, cutoff=0.6)
    near = [path_text(path.with_name(name)) for name in close]
    if os.sep not in text:
        near += difflib.get_close_matches(text.lower(), NAMED_DATA, n=2, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near[:3])}?"
    parent = path.parent
    if not parent.exists():
        return f", and neither does {path_text(parent)}"
    return f"; give a folder, a table, or one of {', '.join(NAMED_DATA)}"
