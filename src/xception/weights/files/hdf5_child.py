"""Reads one HDF5 file in a process of its own and writes what it holds to standard output.

A script, never imported by the package: `hdf5` starts it by its path in an isolated interpreter.
The HDF5 library can crash or worse on a hostile file; here that ends a process which has nothing
but the file (standard input), two pipes, and limits on memory, time and open files.

Standard output gets 8 bytes (little-endian) with the length of what follows, then one stream of
the safetensors format: tensors by their path in the file in the order of the walk, and in
`__metadata__` the attributes that say what a Keras file holds ("PATH@NAME" -> JSON). A file that
is refused ends the process with code REFUSED and one line on standard error, which continues a
sentence that begins with the file's name.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

REFUSED = 3  # exit code; the reason is on standard error
MAX_HEADER_BYTES = 2 * 2**20
PIECE_BYTES = 2**20  # read and handed on at a time; more where one chunk has more
PIECE_CHUNKS = 250  # in a piece; the library takes some kB for each
METADATA_CACHE_BYTES = 2**18  # of the library, which would let it grow to 32 MiB
TOO_MUCH_MEMORY = (
    "is damaged, or needs far more memory than its size explains; copy or download it again, or "
    "save the model anew with Keras"
)


def report(reason: str) -> int:
    os.write(2, reason.encode("utf-8", "replace")[:4000])
    return REFUSED


# All imports happen here, before the limits: later nothing can be opened any more.
if TYPE_CHECKING:
    from xception.weights.files.hdf5_claims import (
        AGAIN,
        CHUNK_COPIES,
        MAX_CHUNK_BYTES,
        RESAVE,
        Dataset,
        Refused,
        Walk,
        shown,
    )
else:
    if __name__ == "__main__":  # an isolated process does not know these folders
        sys.path.extend([*json.loads(sys.argv[1])["folders"], os.path.dirname(__file__)])
    try:
        from hdf5_claims import (
            AGAIN,
            CHUNK_COPIES,
            MAX_CHUNK_BYTES,
            RESAVE,
            Dataset,
            Refused,
            Walk,
            shown,
        )
    except ImportError as error:
        os._exit(report(f"is an HDF5 file, and h5py cannot be loaded ({error}); install it anew"))

import h5py  # noqa: E402
import numpy as np  # noqa: E402
from h5py import h5o, h5s, h5t  # noqa: E402


def main(arguments: list[str]) -> int:
    """arguments: JSON with offset, file_bytes, tensor_bytes, memory_bytes, cpu_seconds, folders."""
    task = json.loads(arguments[0])
    spare_bytes = CHUNK_COPIES * MAX_CHUNK_BYTES
    limit_resources(task["memory_bytes"], task["cpu_seconds"], spare_bytes=spare_bytes)
    try:
        source = Source(task["offset"], task["file_bytes"])
        file = h5py.File(source, "r", rdcc_nbytes=0)  # `pieces` goes along chunks: none is kept
        bound_metadata_cache(file.id)
        walk = Walk(task["file_bytes"], task["tensor_bytes"])
        walk.run(file.id)
        allow_more_memory(CHUNK_COPIES * walk.largest_chunk())
        write_head(walk)
        for path, dataset in walk.datasets.items():
            write_dataset(file.id, path, dataset)
    except Refused as error:
        return report(str(error))
    except MemoryError:
        return report(TOO_MUCH_MEMORY)
    except BrokenPipeError:
        return REFUSED  # nobody reads any more
    except Exception as error:  # h5py raises nearly every kind for a damaged file
        if "allocation failed" in str(error):
            return report(TOO_MUCH_MEMORY)
        return report(f"is cut short or damaged: HDF5 cannot read it ({shown(error)}); {AGAIN}")
    return 0


def limit_resources(memory_bytes: int, cpu_seconds: int, *, spare_bytes: int = 0) -> None:
    """Take no more than this from here on, and open no file: an external one stays closed.

    spare_bytes: what `allow_more_memory` may add later
    """
    try:
        import resource
    except ImportError:
        return  # not on Windows; the checks of sizes and the parent's clock are left
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime) + cpu_seconds
    most = address_space() + memory_bytes
    for name, soft, hard in (
        ("RLIMIT_AS", most, most + spare_bytes),
        ("RLIMIT_CPU", seconds, seconds + 2),  # the soft one tells the parent what happened
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_NOFILE", 0, 0),
        ("RLIMIT_NPROC", 0, 0),
    ):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (ValueError, OSError):
            continue  # macOS has no limit on address space; the other limits still hold


def allow_more_memory(extra_bytes: int) -> None:
    """Raise the limit on memory by so much, up to what `limit_resources` left to spare."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (min(soft + extra_bytes, hard), hard))
    except (ImportError, ValueError, OSError):
        return  # where no limit was set


def bound_metadata_cache(file: Any) -> None:
    """Let the library keep little of the groups and headers that it has read."""
    config = file.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = config.max_size = METADATA_CACHE_BYTES
    file.set_mdc_config(config)


def address_space() -> int:
    """Bytes of address space that this process has, 1 GiB where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 2**30


def write(content: Any) -> None:
    """All of a bytes-like object to standard output, past every buffer."""
    rest = memoryview(content).cast("B")
    while len(rest):
        rest = rest[os.write(1, rest) :]


class Source(io.RawIOBase):
    """The part of standard input that is the HDF5 file, as the file object that h5py reads."""

    def __init__(self, offset: int, size: int) -> None:
        self._offset, self._size, self._at = offset, size, 0

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        self._at = place + {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self._size)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fills all of `buffer`; a file that ends before raises: no part of a number is of use."""
        rest = memoryview(buffer).cast("B")
        size = len(rest)
        if not 0 <= self._at <= self._size - size:
            raise OSError("it points beyond its end")
        while len(rest):
            count = self._read_at(self._offset + self._at, rest)
            if not count:
                raise OSError("it became shorter while it was read")
            self._at += count
            rest = rest[count:]
        return size

    @staticmethod
    def _read_at(place: int, target: memoryview) -> int:
        if hasattr(os, "preadv"):  # the parent's position in the file stays
            return os.preadv(0, [target], place)
        os.lseek(0, place, os.SEEK_SET)
        part = os.read(0, min(len(target), PIECE_BYTES))
        target[: len(part)] = part
        return len(part)


def write_head(walk: Walk) -> None:
    """The stream's length, the header's length, the header, which never lies here in one text."""
    parts = ['{"__metadata__":', json.dumps(walk.attributes)]
    walk.attributes.clear()
    end = 0
    for path, dataset in walk.datasets.items():
        begin, end = end, end + dataset.size
        entry = {"dtype": dataset.dtype, "shape": dataset.shape, "data_offsets": (begin, end)}
        parts.append(f",{json.dumps(path)}:{json.dumps(entry)}")
    parts.append("}")
    length = sum(map(len, parts))  # of bytes as well: what JSON escapes is ASCII
    if length > MAX_HEADER_BYTES:
        raise Refused(f"holds too many names and texts; {RESAVE}")
    write((8 + length + end).to_bytes(8, "little") + length.to_bytes(8, "little"))
    for part in parts:
        write(part.encode())


def write_dataset(root: Any, path: str, dataset: Dataset) -> None:
    """The numbers row by row, little-endian, piece by piece."""
    node = h5o.open(root, path.encode())
    number = np.dtype(dataset.number).newbyteorder("<")
    kind = node.get_type() if dataset.as_stored else h5t.py_create(number)
    layout = dataset.shape, number.itemsize, dataset.chunk, dataset.chunk_bytes
    for start, count in pieces(*layout):
        write(read_piece(node, start, count, number, kind))  # and let go of before the next


def read_piece(
    node: Any, start: tuple[int, ...], count: tuple[int, ...], number: Any, kind: Any
) -> Any:
    """Bytes of the numbers in `count` places from `start` on."""
    target = np.zeros(count, number)
    space = node.get_space()
    if count:
        space.select_hyperslab(start, count)
    node.read(h5s.create_simple(count) if count else h5s.ALL, space, target, kind)
    return target.reshape(-1).view(np.uint8)


def pieces(
    shape: tuple[int, ...], item: int, chunk: tuple[int, ...] | None = None, chunk_bytes: int = 0
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(start, count) of blocks that follow one another in memory.

    A block has at most PIECE_CHUNKS chunks and PIECE_BYTES, or `chunk_bytes` where these are more.
    As far as that allows it ends where a chunk does: then none is unpacked twice.
    """
    if 0 in shape:
        return
    most = max(PIECE_BYTES, chunk_bytes)
    chunk = chunk or shape
    axis, row, chunks = len(shape), item, 1  # the axes from `axis` on are taken whole
    while axis and row * shape[axis - 1] <= most:
        more = chunks * math.ceil(shape[axis - 1] / chunk[axis - 1])
        if more > PIECE_CHUNKS:
            break
        axis, row, chunks = axis - 1, row * shape[axis - 1], more
    if axis == 0:
        yield (0,) * len(shape), shape
        return
    length, behind = chunk[axis - 1], shape[axis:]
    step = min(most // row, PIECE_CHUNKS // chunks * length)
    step = step // length * length or step
    for outer in itertools.product(*map(range, shape[: axis - 1])):
        begin = 0
        while begin < shape[axis - 1]:
            chunk_at = begin // length * length  # a short step ends where its chunk does
            end = min(begin + step, chunk_at + max(step, length), shape[axis - 1])
            start = (*outer, begin, *(0 for _ in behind))
            yield start, (*(1 for _ in outer), end - begin, *behind)
            begin = end


if __name__ == "__main__":
    # past the library's own closing, which would work on what a damaged file left behind
    os._exit(main(sys.argv[1:]))
