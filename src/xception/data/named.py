"""Data sets known by name: the built-in one, and those that torchvision fetches or finds."""

from __future__ import annotations

import os
import urllib.error
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xception.data.folder import list_folder
from xception.data.idx import read_idx
from xception.data.listing import Opening, source_from_listing, split_off_validation
from xception.data.samples import ArraySamples, DataSource, FileSamples, Samples
from xception.errors import DataError

if TYPE_CHECKING:
    import numpy as np

BUILT_IN = Path(__file__).parent / "builtin" / "fashion-mnist-5k"
SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_IDX_PREFIX = {"train": "train", "test": "t10k"}


def data_root() -> Path:
    """Where data sets are looked for and put: $XCEPTION_DATA, else ~/.cache/xception/data."""
    return Path(os.environ.get("XCEPTION_DATA") or "~/.cache/xception/data").expanduser()


def open_named(name: str, opening: Opening) -> DataSource:
    """Open a data set of `NAMED_DATA`; DataError where it is not here and cannot be fetched."""
    return NAMED_DATA[name](name, opening)


def _built_in(name: str, opening: Opening) -> DataSource:
    return _fashion_source(name, BUILT_IN, opening)


def _fashion_mnist(name: str, opening: Opening) -> DataSource:
    raw = data_root() / "FashionMNIST" / "raw"  # where torchvision puts it
    places = (SYSTEM_FASHION_MNIST, data_root() / "fashion-mnist", raw)
    for place in places:
        if _idx_file(place, "t10k-labels-idx1-ubyte").exists():
            return _fashion_source(name, place, opening)
    from torchvision.datasets import FashionMNIST

    files = "the four *-ubyte.gz files of https://github.com/zalandoresearch/fashion-mnist"
    put = f"install the Debian package dataset-fashion-mnist, or put {files} into {places[1]}"
    _fetch(name, partial(FashionMNIST, str(data_root()), download=True), put)
    return _fashion_source(name, raw, opening)


def _fashion_source(name: str, folder: Path, opening: Opening) -> DataSource:
    parts: dict[str, tuple[np.ndarray, list[int]]] = {}
    for split, prefix in _IDX_PREFIX.items():
        pictures = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"), 3)
        labels_file = _idx_file(folder, f"{prefix}-labels-idx1-ubyte")
        labels = read_idx(labels_file, 1).tolist()
        if len(labels) != len(pictures) or max(labels, default=0) >= len(FASHION_CLASSES):
            raise DataError(
                f"{labels_file}: its {len(labels)} labels do not fit the {len(pictures)} pictures; "
                "fetch it again"
            )
        parts[split] = (pictures, labels)
    return _array_source(name, FASHION_CLASSES, parts, opening)


def _idx_file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _cifar(name: str, opening: Opening) -> DataSource:
    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    put = f"put {kind.filename} from {kind.url} into {data_root()}"
    parts: dict[str, tuple[np.ndarray, list[int]]] = {}
    classes: list[str] = []
    for split in ("train", "test"):
        fetch = partial(kind, str(data_root()), train=split == "train", download=True)
        part = _fetch(name, fetch, put)
        parts[split] = (part.data, part.targets)
        classes = list(part.classes)
    return _array_source(name, classes, parts, opening)


def _array_source(
    name: str,
    classes: tuple[str, ...] | list[str],
    parts: Mapping[str, tuple[np.ndarray, list[int]]],
    opening: Opening,
) -> DataSource:
    splits: dict[str, Samples] = {}
    keys: list[str] = []
    order = _order(name, classes, opening)
    for split, (pictures, labels) in parts.items():
        names = [f"{name}/{split}/{i}" for i in range(len(labels))]
        splits[split] = ArraySamples(pictures, [order[label] for label in labels], names)
        if split == "train":
            keys = names
    by_index = sorted(zip(order, classes, strict=True))
    shown = opening.classes if opening.classes is not None else [label for _, label in by_index]
    return DataSource(name, list(shown), split_off_validation(splits, keys, opening))


def _order(name: str, classes: tuple[str, ...] | list[str], opening: Opening) -> list[int]:
    """Index of each of the data set's classes among those that are asked for."""
    if opening.classes is None:
        return list(range(len(classes)))
    wanted = list(opening.classes)
    unknown = [label for label in classes if label not in wanted]
    if unknown:
        raise DataError(
            f"{name}: the model does not know its class {unknown[0]!r} (it knows: "
            f"{', '.join(wanted[:10])}); use data with the model's classes"
        )
    return [wanted.index(label) for label in classes]


def _imagenet(name: str, opening: Opening) -> DataSource:
    """ILSVRC 2012: "train" and the official validation part as "val" (test labels are secret)."""
    from torchvision import datasets

    root = data_root() / "imagenet"
    put = (
        "put ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
        f"from https://image-net.org into {root} (or unpacked as train/ and val/ class folders)"
    )
    has_names = (root / "meta.bin").exists() or (root / "ILSVRC2012_devkit_t12.tar.gz").exists()
    if not has_names:
        if (root / "train").is_dir() or (root / "val").is_dir():
            return source_from_listing(list_folder(root), opening)  # classes are WordNet numbers
        raise DataError(f"{name}: not found; {put}")
    splits: dict[str, Samples] = {}
    classes: list[str] = []
    for split in ("train", "val"):
        part = _fetch(name, partial(datasets.ImageNet, str(root), split=split), put)
        classes = _distinct([words[0] for words in part.classes], part.wnids)
        order = _order(name, classes, opening)
        labels = [order[label] for _, label in part.samples]
        splits[split] = FileSamples(labels, [path for path, _ in part.samples])
    return DataSource(name, list(opening.classes or classes), splits)


def _distinct(words: list[str], numbers: list[str]) -> list[str]:
    """ImageNet has two classes called "crane": add the WordNet number to such names."""
    return [
        f"{word} ({number})" if words.count(word) > 1 else word
        for word, number in zip(words, numbers, strict=True)
    ]


def _fetch(name: str, fetch: Callable[[], Any], put: str) -> Any:
    try:
        data_root().mkdir(parents=True, exist_ok=True)
        return fetch()
    except (OSError, RuntimeError, EOFError, urllib.error.URLError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())[:160]
        raise DataError(f"{name}: cannot be fetched ({reason}); {put}") from None
    except ModuleNotFoundError as error:
        raise DataError(f"{name}: needs {error.name}: pip install {error.name}") from None


NAMED_DATA: dict[str, Callable[[str, Opening], DataSource]] = {
    "fashion-mnist-5k": _built_in,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "imagenet": _imagenet,
}
