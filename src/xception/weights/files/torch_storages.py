"""Where the bytes of torch's storages lie in a file, in both of its formats.

A storage is a run of numbers of one type; tensors are views of it. The zip format has a member for
each, the format before torch 1.6 has them one after the other behind the pickle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import torch

from xception.weights.files.pickle_values import Name, Persistent
from xception.weights.files.zip_archive import PIECE_BYTES, ZipArchive
from xception.weights.wording import quoted

_AGAIN = "copy or download it again"
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
    "UntypedStorage": torch.uint8,  # whose tensors say their type themselves
}
_COUNT_BYTES = 8  # before each storage of the format without zip: how many numbers follow


@dataclass(frozen=True, slots=True)
class StorageView:
    """What a pickle says of a storage, or of a part of one as torch before 0.4 wrote them.

    total: numbers in the whole storage `key`; first, count: those that the view holds
    """

    key: str
    dtype: torch.dtype
    total: int
    first: int
    count: int


class Storages(Protocol):
    """The storages of one file."""

    byte_order: str  # "little" or "big"

    def size(self, key: str) -> int | None:
        """Bytes of storage `key`, None when it is not there."""

    def pieces(self, key: str) -> Iterator[bytes]:
        """Its bytes, in pieces that are together of that size."""


class ZipStorages:
    """Members ROOT/data/KEY of a zip archive."""

    def __init__(self, archive: ZipArchive, root: str, byte_order: str) -> None:
        self.byte_order = byte_order
        self._archive = archive
        self._root = root

    def size(self, key: str) -> int | None:
        member = self._archive.members.get(f"{self._root}data/{key}")
        return None if member is None else member.size

    def pieces(self, key: str) -> Iterator[bytes]:
        return self._archive.pieces(f"{self._root}data/{key}")


class SequentialStorages:
    """Storages that follow one another in `file`, each after its count of numbers."""

    byte_order = "little"  # on every machine

    def __init__(self, file: BinaryIO, places: Mapping[str, tuple[int, int]]) -> None:
        self._file = file
        self._places = places  # key -> place in the file, bytes

    def size(self, key: str) -> int | None:
        return self._places[key][1] if key in self._places else None

    def pieces(self, key: str) -> Iterator[bytes]:
        at, size = self._places[key]
        stop = at + size
        while at < stop:
            self._file.seek(at)
            piece = self._file.read(min(PIECE_BYTES, stop - at))
            if not piece:
                raise ValueError(f"became shorter while it was read; {_AGAIN}")
            at += len(piece)
            yield piece


def view_of(reference: Any, user: str = "an object") -> StorageView:
    """The storage that a pickle refers to for `user`, which errors name.

    Raises ValueError when it is not described well.
    """
    identity = reference.identity if isinstance(reference, Persistent) else None
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or not is_storage(reference):
        raise ValueError(f"is damaged: {user} has no storage; {_AGAIN}")
    _, kind, key, _, total, part = (*identity, None)[:6]
    named = isinstance(kind, Name) and kind.module in ("torch", "torch.cuda", "torch.storage")
    dtype = _DTYPES.get(kind.name) if named else None
    if dtype is None:
        shown = kind if isinstance(kind, Name) else "without a name"
        raise ValueError(
            f"holds {user} in a storage of type {quoted(shown)}, which is not known here; save the "
            "weights as plain float tensors"
        )
    first, count = 0, total
    if isinstance(part, tuple) and len(part) == 3:
        _, first, count = part
    elif part is not None:
        raise ValueError(f"is damaged: {user} has no proper part of a storage; {_AGAIN}")
    if not all(type(number) is int and 0 <= number < 2**48 for number in (total, first, count)):
        raise ValueError(f"is damaged: the storage of {user} has no proper length; {_AGAIN}")
    if first + count > total:
        raise ValueError(f"is damaged: {user} reaches beyond its storage; {_AGAIN}")
    return StorageView(_key(key), dtype, total, first, count)


def is_storage(reference: Persistent) -> bool:
    """Whether a pickle refers to a storage; otherwise it does to a class, in old files."""
    identity = reference.identity
    return isinstance(identity, tuple) and bool(identity) and _is_text(identity[0], "storage")


def class_of(reference: Persistent) -> Any:
    """The class that old files refer to together with its source code; None of anything else."""
    identity = reference.identity
    is_class = isinstance(identity, tuple) and len(identity) == 4
    return identity[1] if is_class and _is_text(identity[0], "module") else None


def find_sequential(
    file: BinaryIO, at: int, file_bytes: int, keys: Iterable[Any], views: Iterable[StorageView]
) -> SequentialStorages:
    """The storages `keys`, which follow one another from byte `at` of `file`.

    views: what the pickle refers to, which says how many bytes a number takes
    """
    itemsizes = {view.key: view.dtype.itemsize for view in views}
    places: dict[str, tuple[int, int]] = {}
    for raw_key in keys:
        key = _key(raw_key)
        if key not in itemsizes or key in places:
            raise ValueError(f"is damaged: it lists a storage that no tensor uses; {_AGAIN}")
        file.seek(at)
        count = int.from_bytes(file.read(_COUNT_BYTES), "little")
        at += _COUNT_BYTES
        size = count * itemsizes[key]
        if at + size > file_bytes:
            raise ValueError(f"is cut short: it ends within its tensors; {_AGAIN}")
        places[key] = at, size
        at += size
    return SequentialStorages(file, places)


def _is_text(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def _key(value: Any) -> str:
    if type(value) is int and abs(value) < 2**64:
        return str(value)
    if isinstance(value, str) and len(value) <= 64 and "/" not in value:
        return value
    raise ValueError(f"is damaged: a storage has no usable key; {_AGAIN}")
