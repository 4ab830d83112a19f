"""What an HDF5 file claims to hold, checked against its size before any number is read.

Part of the child process that `hdf5_child` is; this process never imports it. Texts of `Refused`
continue a sentence that begins with the file's name; the parent makes them printable.
Source of the format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

MAX_OBJECTS = 5_000  # groups and datasets; Keras's Xception has some 530, and as many for Adam
MAX_DEPTH = 32  # groups within groups
MAX_NAME_CHARACTERS = 255
MAX_PATH_CHARACTERS = 1024
MAX_AXES = 8
MAX_TEXT_BYTES = 2**20  # of paths and attributes; an Xception's model_config has 0.1 MB
MAX_CHUNK_BYTES = 16 * 2**20  # unpacked whole; an Xception's largest tensor has 12.6 MB
FREE_CHUNK_BYTES = 2**20  # of a chunk, however few numbers there are
CHUNK_COPIES = 4  # in memory: packed, unpacked with as much to spare, and taken out
MAX_UNPACKING = 1100  # deflate's own limit is 1032:1
PACKING = frozenset((h5z.FILTER_DEFLATE, h5z.FILTER_LZF))

TEXTS = ("model_config", "keras_version", "backend", "name")
LISTINGS = ("layer_names", "weight_names")  # Keras 2 splits long ones: layer_names0, ...
OPTIMIZER = ("optimizer", "optimizer_weights")  # checked like the rest, but not handed on
LAYERS = ("layers", "_layer_checkpoint_dependencies")  # below them a name is a layer's

AGAIN = "copy or download it again"
RESAVE = "save the model anew with Keras and give that file"


class Refused(Exception):
    """The file cannot be used; the text continues a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset whose claims were checked.

    dtype: safetensors' name; number: numpy's; as_stored: its bytes are taken over unconverted
    """

    dtype: str
    number: str
    as_stored: bool
    shape: tuple[int, ...]
    size: int  # bytes
    chunk: tuple[int, ...] | None  # shape of what lies together; None: all
    chunk_bytes: int  # of what is unpacked or checked whole; 0: nothing


def shown(text: object) -> str:
    """Something from the file, short; the parent makes it printable."""
    return str(text)[:120]


class Walk:
    """Goes through all groups, checks every claim against the file's size, and reads no numbers.

    datasets: by path, in the order of the groups' listings; without the optimizer's
    attributes: "PATH@NAME" -> text or list of texts, as JSON
    """

    def __init__(self, file_bytes: int, tensor_bytes: int) -> None:
        self.datasets: dict[str, Dataset] = {}
        self.attributes: dict[str, str] = {}
        self._file_bytes = file_bytes
        self._tensor_bytes = tensor_bytes
        self._declared = self._stored = self._text = 0
        self._seen: set[int] = set()

    def run(self, root: Any) -> None:
        self._see(root, "")
        self._read_attributes(root, "")
        waiting = [(path, False) for path in reversed(self._members(root, "", 0))]
        while waiting:
            path, is_optimizer = waiting.pop()
            node = h5o.open(root, path.encode())
            self._see(node, path)
            is_optimizer = is_optimizer or belongs_to_optimizer(path)
            if isinstance(node, h5g.GroupID):
                if not is_optimizer:
                    self._read_attributes(node, path)
                below = self._members(node, path, len(waiting))
                waiting.extend((member, is_optimizer) for member in reversed(below))
            else:
                dataset = self._check_dataset(node, path)
                if not is_optimizer:
                    self.datasets[path] = dataset

    def largest_chunk(self) -> int:
        """Its bytes, 0 without any; raises Refused where they are many for so few numbers.

        It takes memory CHUNK_COPIES times, which must stay within what the numbers take.
        """
        if not self.datasets:
            return 0
        path = max(self.datasets, key=lambda path: self.datasets[path].chunk_bytes)
        size = self.datasets[path].chunk_bytes
        numbers = sum(dataset.size for dataset in self.datasets.values())
        most = FREE_CHUNK_BYTES + numbers // CHUNK_COPIES
        if size > most:
            raise Refused(
                f"stores {shown(path)} in chunks of {size:,} bytes, more than the {most:,} that "
                f"are unpacked at once where there are {numbers:,} bytes of numbers; {RESAVE}"
            )
        return size

    def _see(self, node: Any, path: str) -> None:
        """Count an object; a second way to it could be one of endlessly many."""
        address = h5o.get_info(node).addr
        if address in self._seen:
            raise Refused(f"reaches one object by two ways ({shown(path)}); {RESAVE}")
        self._seen.add(address)

    def _members(self, group: Any, path: str, waiting: int) -> list[str]:
        """Paths of what lies in a group, by name."""
        most = MAX_OBJECTS - len(self._seen) - waiting
        names: list[bytes] = []

        def note(name: bytes, link: Any) -> bool | None:
            if link.type != h5l.TYPE_HARD:
                kind = {h5l.TYPE_SOFT: "a soft", h5l.TYPE_EXTERNAL: "an external"}
                refusals.append(f"holds {kind.get(link.type, 'an unknown')} link")
            names.append(name)
            return True if refusals or len(names) > most else None  # True ends the iteration

        refusals: list[str] = []  # raised below: an error must not pass through the library
        if group.get_num_objs() <= most:
            group.links.iterate(note, info=True)
        if refusals:
            raise Refused(
                f"{refusals[0]} ({shown(text_of(names[-1]))} in /{shown(path)}); {RESAVE}"
            )
        if group.get_num_objs() > most or len(names) > most:
            raise Refused(f"holds more than {MAX_OBJECTS:,} groups and datasets; {RESAVE}")
        return [self._member_path(path, text_of(name)) for name in names]

    def _member_path(self, path: str, name: str) -> str:
        if not name or name in (".", "..") or "/" in name or not name.isprintable():
            raise Refused(f"holds a name that cannot be used ({shown(name)}); {RESAVE}")
        full = f"{path}/{name}" if path else name
        if len(name) > MAX_NAME_CHARACTERS or len(full) > MAX_PATH_CHARACTERS:
            raise Refused(f"holds a name that is too long ({shown(full)}); {RESAVE}")
        if full.count("/") >= MAX_DEPTH:
            raise Refused(f"nests more than {MAX_DEPTH} groups ({shown(full)}); {RESAVE}")
        if full == "__metadata__":
            raise Refused(f"holds an object of a name that is not allowed ({full}); {RESAVE}")
        self._count_text(len(full.encode()))
        return full

    def _count_text(self, size: int) -> None:
        self._text += size
        if self._text > MAX_TEXT_BYTES:
            raise Refused(f"holds more than {MAX_TEXT_BYTES:,} bytes of names and texts; {RESAVE}")

    def _check_dataset(self, node: Any, path: str) -> Dataset:
        """What a dataset claims; raises Refused when the file cannot hold that."""
        if not isinstance(node, h5d.DatasetID):
            raise Refused(
                f"holds something other than groups and numbers ({shown(path)}); {RESAVE}"
            )
        creation = node.get_create_plist()
        # before anything that asks for the shape: that would open the files of a virtual dataset
        if creation.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
            raise Refused(f"takes {shown(path)} from other files (a virtual dataset); {RESAVE}")
        if creation.get_external_count():
            raise Refused(f"keeps {shown(path)} in other files (external storage); {RESAVE}")
        space = node.get_space()
        if space.get_simple_extent_type() == h5s.NULL or space.get_simple_extent_ndims() > MAX_AXES:
            raise Refused(f"holds {shown(path)} of a shape that cannot be used; {RESAVE}")
        shape = tuple(int(n) for n in space.get_simple_extent_dims())
        dtype, number, as_stored, item = number_format(node.get_type(), path)
        size = math.prod(shape) * item
        chunk, filters = None, frozenset[int]()
        if creation.get_layout() == h5d.CHUNKED:
            chunk = creation.get_chunk()
            filters = check_chunks(creation, chunk, len(shape), item, path)
        self._check_size(node.get_storage_size(), size, bool(filters & PACKING), path)
        chunk_bytes = math.prod(chunk) * item if chunk and filters else 0
        return Dataset(dtype, number, as_stored, shape, size, chunk, chunk_bytes)

    def _check_size(self, stored: int, size: int, packed: bool, path: str) -> None:
        """The numbers must be in the file, packed or not, each byte of it used once."""
        if size > stored * (MAX_UNPACKING if packed else 1):
            raise Refused(
                f"claims {size:,} bytes for {shown(path)} and stores {stored:,} of them; it is "
                f"damaged, or made to fill the memory: {AGAIN}"
            )
        self._declared += size
        self._stored += stored if packed else size
        if self._stored > self._file_bytes or self._declared > self._tensor_bytes:
            raise Refused(
                f"claims more numbers than its {self._file_bytes:,} bytes can hold (at "
                f"{shown(path)}); it is damaged, or made to fill the memory: {AGAIN}"
            )

    def _read_attributes(self, node: Any, path: str) -> None:
        for name in TEXTS:
            if h5a.exists(node, name.encode()):
                self._read_attribute(node, path, name)
        for name in LISTINGS:
            parts = itertools.chain([name], (f"{name}{part}" for part in itertools.count()))
            for part_name in parts:
                if h5a.exists(node, part_name.encode()):
                    self._read_attribute(node, path, part_name)
                elif part_name != name:
                    break

    def _read_attribute(self, node: Any, path: str, name: str) -> None:
        """One text or list of texts, of fixed or variable length."""
        attribute = h5a.open(node, name.encode())
        kind, space = attribute.get_type(), attribute.get_space()
        shape = tuple(int(n) for n in space.get_simple_extent_dims() or ())
        if space.get_simple_extent_type() == h5s.NULL or 0 in shape:  # an empty list has no type
            self.attributes[f"{path}@{name}"] = "[]"
            return
        if not isinstance(kind, h5t.TypeStringID) or len(shape) > 1:
            raise Refused(f"holds {name} of {shown('/' + path)} that is no text; {RESAVE}")
        if kind.is_variable_str():
            self._count_text(16 * math.prod(shape))  # the least that each takes in the file
            target = np.empty(shape, h5py.string_dtype())
            attribute.read(target, h5t.py_create(target.dtype))
        else:
            self._count_text(kind.get_size() * math.prod(shape))
            target = np.zeros(shape, f"S{kind.get_size()}")
            attribute.read(target)
        texts = [item if isinstance(item, bytes) else b"" for item in target.ravel().tolist()]
        self._count_text(sum(map(len, texts)))
        decoded = [text_of(text) for text in texts]
        self.attributes[f"{path}@{name}"] = json.dumps(decoded if shape else decoded[0])


def belongs_to_optimizer(path: str) -> bool:
    """Whether Keras puts an optimizer's state there: beside the layers, at any depth."""
    *above, name = path.split("/")
    return name in OPTIMIZER and (not above or above[-1] not in (*LAYERS, "model_weights"))


def text_of(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(f"holds text that is no UTF-8 ({shown(content)}); {AGAIN}") from None


def number_format(kind: Any, path: str) -> tuple[str, str, bool, int]:
    """(safetensors' dtype, numpy's, whether bytes are taken as they are, bytes a number)."""
    if isinstance(kind, h5t.TypeOpaqueID) and kind.get_size() == 2:
        return "BF16", "V2", True, 2  # so Keras writes bfloat16, which HDF5 did not know
    if isinstance(kind, (h5t.TypeFloatID, h5t.TypeIntegerID)):
        size = kind.get_size()
        for letter, standard in (("F", "IEEE_F"), ("I", "STD_I"), ("U", "STD_U")):
            for order in ("LE", "BE"):
                known = getattr(h5t, f"{standard}{8 * size}{order}", None)
                if size <= 8 and known is not None and kind.equal(known):
                    return f"{letter}{8 * size}", f"{letter.lower()}{size}", False, size
    if isinstance(kind, h5t.TypeFloatID) and is_bfloat16(kind):
        return "BF16", "V2", True, 2
    raise Refused(
        f"holds {shown(path)} of a type that is no 16, 32 or 64-bit float or integer; {RESAVE}"
    )


def is_bfloat16(kind: Any) -> bool:
    layout = (15, 7, 8, 0, 7)  # places of sign, exponent (with its width), mantissa (with its)
    is_little = kind.get_size() == 2 and kind.get_order() == h5t.ORDER_LE
    return is_little and tuple(kind.get_fields()) == layout and kind.get_ebias() == 127


def check_chunks(
    creation: Any, chunk: tuple[int, ...], axes: int, item: int, path: str
) -> frozenset[int]:
    """What a chunked dataset is packed and checked by; raises Refused where it cannot be used."""
    if len(chunk) != axes:  # the library does not look, and crashes
        raise Refused(f"is damaged: chunks of {shown(path)} have other axes than it has; {AGAIN}")
    if math.prod(chunk) * item > MAX_CHUNK_BYTES:
        raise Refused(
            f"stores {shown(path)} in chunks of more than {MAX_CHUNK_BYTES:,} bytes; {RESAVE}"
        )
    allowed = (*PACKING, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    unknown = [code for code in filters if code not in allowed]
    if unknown or len(filters) > len(allowed):
        raise Refused(
            f"packs {shown(path)} by a filter that is not read (number {unknown[:1]}); give it "
            "unpacked, or packed by gzip"
        )
    return frozenset(filters)
