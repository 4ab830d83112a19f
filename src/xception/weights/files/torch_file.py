"""Files of torch.save, read without running anything that they say.

    with open(path, "rb") as file:
        contents = read_torch_file(file, os.fstat(file.fileno()).st_size)

Both formats are read: the zip archive of torch 1.6 and later, and the row of pickles before it.
Whole modules need not be importable: their tensors get the names of their state dict.
Source of the formats: torch/serialization.py, https://github.com/pytorch/pytorch
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from xception.weights.files.contents import FileContents
from xception.weights.files.pickle_bytes import MAX_PICKLE_BYTES
from xception.weights.files.pickle_reader import MAX_OBJECT_BYTES, Pickle, read_pickle
from xception.weights.files.pickle_values import elements_of
from xception.weights.files.torch_objects import find_weights
from xception.weights.files.torch_storages import (
    Storages,
    ZipStorages,
    find_sequential,
    is_storage,
    view_of,
)
from xception.weights.files.torch_tensors import layout_of, read_tensors
from xception.weights.files.zip_archive import ZipArchive, open_archive
from xception.weights.wording import quoted

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the format without zip
_PROTOCOL = 1001  # the second
_SMALL_BYTES = 64 * 2**10  # of the objects in either, and in the third
_KEYS_BYTES = 4 * 2**20  # of the objects in the fifth: the storages' keys
_SAVE_STATE = "save model.state_dict() by torch.save"


def read_torch_file(file: BinaryIO, file_bytes: int) -> FileContents:
    """The named tensors in the open file of `file_bytes` bytes that torch.save wrote.

    A state dict may lie in dictionaries ("state_dict", "model", ...) and be of a wrapped module
    ("module.", "_orig_mod."): both are opened, and `origin` says so. Peak memory is at most twice
    the tensors' bytes and 64 MB. Raises ValueError that says what is wrong and what to do.
    """
    file.seek(0)
    start = file.read(512)
    if not start:
        raise ValueError("is empty; copy or download it again")
    if start.startswith(b"PK"):
        value, storages = _read_zip(open_archive(file, file_bytes))
    elif start[257:262] == b"ustar":
        raise ValueError(
            f"is a tar archive, as torch before 0.2 wrote; load it with a torch of its time and "
            f"{_SAVE_STATE}"
        )
    else:
        value, storages = _read_sequence(file, file_bytes)
    weights = find_weights(value)
    layouts = {name: layout_of(record, name) for name, record in weights.records.items()}
    return FileContents(
        kind=weights.kind,
        tensors=read_tensors(layouts, storages),
        origin=weights.origin,
        extra=weights.notes,
    )


def _read_zip(archive: ZipArchive) -> tuple[Any, Storages]:
    """The pickled object and the storages of an archive ROOT/data.pkl, ROOT/data/0, ..."""
    members = archive.members
    roots = [
        name.removesuffix("data.pkl")
        for name in members
        if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1
    ]
    if len(roots) != 1:
        found = ", ".join(quoted(name, 40) for name in list(members)[:3]) or "nothing"
        raise ValueError(
            f"is a zip archive that neither torch.save nor Keras wrote (it holds {found}); give a "
            "file of weights"
        )
    root = roots[0]
    if f"{root}constants.pkl" in members:
        raise ValueError(
            f"is a TorchScript archive, which is code with its weights; open it with "
            f"torch.jit.load and {_SAVE_STATE}"
        )
    byte_order = "little"  # of files before torch 2.1, which do not say
    if f"{root}byteorder" in members:
        byte_order = archive.read(f"{root}byteorder", 16).decode("ascii", "replace")
    if byte_order not in ("little", "big"):
        raise ValueError(f"is damaged: its byte order is {quoted(byte_order)!r}")
    content = archive.read(f"{root}data.pkl", MAX_PICKLE_BYTES)
    pickle = read_pickle(io.BytesIO(content), len(content))
    return pickle.value, ZipStorages(archive, root, byte_order)


def _read_sequence(file: BinaryIO, file_bytes: int) -> tuple[Any, Storages]:
    """The pickled object and the storages of a row of five pickles with raw numbers behind."""
    at = 0

    def following(object_bytes: int = _SMALL_BYTES) -> Pickle:
        nonlocal at
        file.seek(at)
        pickle = read_pickle(file, file_bytes - at, object_bytes)
        at += pickle.bytes_read
        return pickle

    try:
        magic = following().value
    except ValueError:
        magic = None
    if type(magic) is not int or magic != _MAGIC:
        raise ValueError(
            "was not written by torch.save; give a torch file, or load it where it was written "
            f"and {_SAVE_STATE}"
        )
    version = following().value
    if type(version) is not int or version != _PROTOCOL:
        raise ValueError("is of a torch format that is not known; save it again with a newer torch")
    following()  # the machine's sizes of integers, which nothing depends on
    pickle = following(MAX_OBJECT_BYTES)
    keys = following(_KEYS_BYTES).value
    views = (view_of(reference) for reference in pickle.persistent if is_storage(reference))
    return pickle.value, find_sequential(file, at, file_bytes, elements_of(keys), views)
