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
MAX_HEADER_BYTES = 8 * 2**20
PIECE_BYTES = 4 * 2**20  # read and handed on at a time
CHUNK_CACHE_BYTES = 8 * 2**20


def report(reason: str) -> int:
    os.write(2, reason.encode("utf-8", "replace")[:4000])
    return REFUSED


# All imports happen here, before the limits: later nothing can be opened any more.
if TYPE_CHECKING:
    from xception.weights.files.hdf5_claims import AGAIN, RESAVE, Dataset, Refused, Walk, shown
else:
    if __name__ == "__main__":  # an isolated process does not know these folders
        sys.path.extend([*json.loads(sys.argv[1])["folders"], os.path.dirname(__file__)])
    try:
        from hdf5_claims import AGAIN, RESAVE, Dataset, Refused, Walk, shown
    except ImportError as error:
        os._exit(report(f"is an HDF5 file, and h5py cannot be loaded ({error}); install it anew"))

import h5py  # noqa: E402
import numpy as np  # noqa: E402
from h5py import h5o, h5s, h5t  # noqa: E402


def main(arguments: list[str]) -> int:
    """arguments: JSON with offset, file_bytes, tensor_bytes, memory_bytes, cpu_seconds, folders."""
    task = json.loads(arguments[0])
    limit_resources(task["memory_bytes"], task["cpu_seconds"])
    try:
        source = Source(task["offset"], task["file_bytes"])
        file = h5py.File(source, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
        walk = Walk(task["file_bytes"], task["tensor_bytes"])
        walk.run(file.id)
        write(stream_head(walk))
        for path, dataset in walk.datasets.items():
            write_dataset(file.id, path, dataset)
    except Refused as error:
        return report(str(error))
    except MemoryError:
        return report(f"is damaged, or needs far more memory than its size explains; {AGAIN}")
    except BrokenPipeError:
        return REFUSED  # nobody reads any more
    except Exception as error:  # h5py raises nearly every kind for a damaged file
        return report(f"is cut short or damaged: HDF5 cannot read it ({shown(error)}); {AGAIN}")
    return 0


def limit_resources(memory_bytes: int, cpu_seconds: int) -> None:
    """Take no more than this from here on, and open no file: an external one stays closed."""
    try:
        import resource
    except ImportError:
        return  # not on Windows; the checks of sizes and the parent's clock are left
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime) + cpu_seconds
    for name, soft, hard in (
        ("RLIMIT_AS", address_space() + memory_bytes, address_space() + memory_bytes),
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

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes; a file that ends before raises: no part of a number is of use."""
        if size < 0 or not 0 <= self._at <= self._size - size:
            raise OSError("it points beyond its end")
        parts = []
        while size:
            part = self._read_at(self._offset + self._at, size)
            if not part:
                raise OSError("it became shorter while it was read")
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)  # h5py copies it once more

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = self.read(len(view))
        return len(view)

    @staticmethod
    def _read_at(place: int, size: int) -> bytes:
        if hasattr(os, "pread"):  # the parent's position in the file stays
            return os.pread(0, size, place)
        os.lseek(0, place, os.SEEK_SET)
        return os.read(0, size)


def stream_head(walk: Walk) -> bytes:
    """The stream's length, the header's length, the header."""
    header: dict[str, Any] = {
        "__metadata__": {
            key: json.dumps(value, ensure_ascii=False) for key, value in walk.attributes.items()
        }
    }
    end = 0
    for path, dataset in walk.datasets.items():
        begin, end = end, end + dataset.size
        header[path] = {
            "dtype": dataset.dtype, "shape": dataset.shape, "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header, ensure_ascii=False).encode("utf-8")
    if len(text) > MAX_HEADER_BYTES:
        raise Refused(f"holds too many names and texts; {RESAVE}")
    total = 8 + len(text) + end
    return total.to_bytes(8, "little") + len(text).to_bytes(8, "little") + text


def write_dataset(root: Any, path: str, dataset: Dataset) -> None:
    """The numbers row by row, little-endian, a few MiB at a time."""
    node = h5o.open(root, path.encode())
    number = np.dtype(dataset.number).newbyteorder("<")
    memory = node.get_type() if dataset.as_stored else h5t.py_create(number)
    for start, count in pieces(dataset.shape, number.itemsize):
        target = np.zeros(count, number)
        space = node.get_space()
        if count:
            space.select_hyperslab(start, count)
        node.read(h5s.create_simple(count) if count else h5s.ALL, space, target, memory)
        write(target.reshape(-1).view(np.uint8))


def pieces(shape: tuple[int, ...], item: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(start, count) of blocks of at most PIECE_BYTES that follow one another in memory."""
    if 0 in shape:
        return
    axis, row = len(shape), item  # the axes from `axis` on are taken whole; they have `row` bytes
    while axis and row * shape[axis - 1] <= PIECE_BYTES:
        axis -= 1
        row *= shape[axis]
    if axis == 0:
        yield (0,) * len(shape), shape
        return
    step, behind = PIECE_BYTES // row, shape[axis:]
    for outer in itertools.product(*map(range, shape[: axis - 1])):
        for begin in range(0, shape[axis - 1], step):
            count = min(step, shape[axis - 1] - begin)
            start = (*outer, begin, *(0 for _ in behind))
            yield start, (*(1 for _ in outer), count, *behind)


if __name__ == "__main__":
    # past the library's own closing, which would work on what a damaged file left behind
    os._exit(main(sys.argv[1:]))
