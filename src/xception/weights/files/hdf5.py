"""Tensors out of an HDF5 file, which a child process reads under limits (`hdf5_child`).

The HDF5 library can crash on a hostile file, so it never runs in this process; and what the child
sends is taken for no more trustworthy than the file: lengths and layout are checked against the
file's size before memory is taken, and a child that stalls is ended.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from xception.weights.header import Header, parse_json, read_header
from xception.weights.wording import quoted

MEMORY_BYTES = 12 * 2**20  # what the child may take beyond its interpreter and a chunk's copies
MAX_EXPANSION = 16  # tensor bytes / file bytes; the weights of a trained network pack by 1.1
FREE_BYTES = 16 * 2**20  # tensor bytes that need no such ratio
CPU_SECONDS = 10
CPU_BYTES_A_SECOND = 4 * 2**20  # of the file; unpacking all that is allowed takes half of it
MAX_HEADER_BYTES = 2 * 2**20  # names, layout and attributes, as text
CLOCK_SECONDS = 60.0
CLOCK_BYTES_A_SECOND = 2**20  # of the file; a slow network drive

_CHILD = Path(__file__).with_name("hdf5_child.py")
_REFUSED = 3  # the child's exit code for a file that it refuses, with the reason
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_AGAIN = "copy or download it again"
_DTYPES = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hdf5Contents:
    """What stands in an HDF5 file.

    tensors: by path without a leading slash, groups by groups and within one by name; of the
        file's dtype, integers too, on the CPU. An optimizer's state (Keras's groups "optimizer"
        and "optimizer_weights") is left out.
    attributes: "PATH@NAME" (the root's path is empty) -> text, or a list of texts, of those
        attributes that say what a Keras file holds: model_config, keras_version, backend,
        layer_names, weight_names (and their parts layer_names0, ...), name
    """

    tensors: dict[str, Tensor]
    attributes: dict[str, str | list[str]]


def read_hdf5(file: BinaryIO, file_bytes: int, *, offset: int = 0) -> Hdf5Contents:
    """The tensors of the HDF5 file in the bytes [offset, offset + file_bytes) of `file`.

    file: a file of the system (with a file number), whose position may change

    Takes at most twice the tensors' bytes and 64 MB, both processes together: of the 64, 40 go to
    the child's interpreter with numpy and h5py.
    Raises ValueError saying what is wrong, also when the HDF5 library crashes, takes too long, or
    h5py is missing.
    """
    _check_signature(file, file_bytes, offset)
    with _child(_task(file_bytes, offset), file) as (child, clock):
        assert child.stdout is not None and child.stderr is not None
        try:
            contents = _receive(cast(BinaryIO, child.stdout), _most_tensor_bytes(file_bytes))
        except EOFError:
            contents = None
        code = child.wait()
        if code == 0 and contents is not None:
            return contents
        if code == _REFUSED and (reason := child.stderr.read(4000)):
            raise ValueError(quoted(reason.decode("utf-8", "replace"), 600))
        if clock.has_struck:
            raise ValueError(
                f"could not be read within {clock.seconds:,.0f} seconds; copy it to a faster drive "
                "if it comes from a slow one, else it is damaged"
            )
        raise ValueError(_of_exit(code))


def _check_signature(file: BinaryIO, file_bytes: int, offset: int) -> None:
    """HDF5's mark stands at the beginning or, behind a block of the user's, at 512, 1024, ..."""
    at = 0
    while at < file_bytes:
        file.seek(offset + at)
        if file.read(len(_SIGNATURE)) == _SIGNATURE:
            return
        at = 2 * at or 512
    if file_bytes == 0:
        raise ValueError(f"is empty; {_AGAIN}")
    raise ValueError("is not an HDF5 file; give a file that Keras wrote")


def _most_tensor_bytes(file_bytes: int) -> int:
    return FREE_BYTES + MAX_EXPANSION * file_bytes


# ---------------------------------------------------------------- the child's life


def _task(file_bytes: int, offset: int) -> dict[str, Any]:
    """What the child is told. It runs isolated, so it must hear where h5py and numpy are."""
    folders = []
    for name in ("h5py", "numpy"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f'is an HDF5 file, which needs {name}; pip install "{name}"')
        folders.append(str(Path(spec.origin).parent.parent))
    return {
        "offset": offset,
        "file_bytes": file_bytes,
        "tensor_bytes": _most_tensor_bytes(file_bytes),
        "memory_bytes": MEMORY_BYTES,
        "cpu_seconds": CPU_SECONDS + file_bytes // CPU_BYTES_A_SECOND,
        "folders": folders,
    }


class _Clock:
    """Kills the child when its time is up, whatever this process waits for."""

    def __init__(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        self.seconds = seconds
        self.has_struck = False
        self._child = child
        self._timer = threading.Timer(seconds, self._strike)
        self._timer.daemon = True
        self._timer.start()

    def _strike(self) -> None:
        self.has_struck = True
        self._child.kill()

    def stop(self) -> None:
        self._timer.cancel()
        self._timer.join()


@contextmanager
def _child(
    task: dict[str, Any], file: BinaryIO
) -> Iterator[tuple[subprocess.Popen[bytes], _Clock]]:
    """The running child with `file` as its standard input; it does not outlive the block."""
    child = _start(task, file)
    clock = _Clock(child, CLOCK_SECONDS + task["file_bytes"] / CLOCK_BYTES_A_SECOND)
    try:
        yield child, clock
    finally:
        clock.stop()
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def _start(task: dict[str, Any], file: BinaryIO) -> subprocess.Popen[bytes]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HDF5_")},
        "HDF5_PLUGIN_PRELOAD": "::",  # HDF5's word for: load no filters from anywhere
        "MALLOC_MMAP_THRESHOLD_": "131072",  # glibc gives larger blocks back at once
        "OPENBLAS_NUM_THREADS": "1",  # threads that nobody needs take address space
    }
    try:
        return subprocess.Popen(
            [sys.executable or "", "-I", "-S", str(_CHILD), json.dumps(task)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )
    except OSError as error:
        raise ValueError(
            f"is an HDF5 file, and the process that reads those cannot be started "
            f"({error.strerror or error}); close other programs and try again"
        ) from None


def _of_exit(code: int) -> str:
    """What an exit code that no honest file leads to means for the user."""
    if code == -getattr(signal, "SIGXCPU", code - 1):
        return f"takes far longer to read than its size explains, so it is damaged; {_AGAIN}"
    if code == -getattr(signal, "SIGKILL", code - 1):
        return "could not be read: the system ended the process that reads it; make memory free"
    try:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        how = f"signal {-code}"
    return f"is damaged: the HDF5 library crashed on it ({how}); {_AGAIN}"


# ---------------------------------------------------------------- what the child sends


def _receive(stream: BinaryIO, most_tensor_bytes: int) -> Hdf5Contents:
    """Raises EOFError when the stream ends early, ValueError when it is not as it must be."""
    total, header_bytes = (int.from_bytes(_exactly(stream, 8), "little") for _ in range(2))
    if header_bytes > MAX_HEADER_BYTES or total > 8 + header_bytes + most_tensor_bytes:
        raise ValueError(f"is damaged: the process that reads it claims {total:,} bytes; {_AGAIN}")
    header = read_header(_start_of(stream, header_bytes), total)
    attributes = {
        key: _checked_attribute(parse_json(text, "attribute"))
        for key, text in header.metadata.items()
    }
    tensors = _receive_tensors(stream, header)
    if stream.read(1):
        raise ValueError(f"is damaged: more came out of it than it holds; {_AGAIN}")
    return Hdf5Contents(tensors, attributes)


def _start_of(stream: BinaryIO, header_bytes: int) -> io.BytesIO:
    """The header behind its length, as a safetensors file begins."""
    start = io.BytesIO(header_bytes.to_bytes(8, "little"))
    start.seek(8)
    while header_bytes:
        start.write(piece := _exactly(stream, min(header_bytes, 2**16)))
        header_bytes -= len(piece)
    start.seek(0)
    return start


def _receive_tensors(stream: BinaryIO, header: Header) -> dict[str, Tensor]:
    """Each into its own memory; the header's order is the stream's."""
    tensors = {}
    for name, entry in header.tensors.items():
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise ValueError(f"holds {quoted(name)} of dtype {quoted(entry.dtype)}, unknown here")
        tensors[name] = torch.empty(entry.shape, dtype=dtype)
        _fill(stream, tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return tensors


def _checked_attribute(value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError(f"is damaged: an attribute is no text; {_AGAIN}")


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    _fill(stream, memoryview(content))
    return content


def _fill(stream: BinaryIO, target: memoryview) -> None:
    at = 0
    while at < len(target):
        count = cast(io.RawIOBase, stream).readinto(target[at:])
        if not count:
            raise EOFError
        at += count
