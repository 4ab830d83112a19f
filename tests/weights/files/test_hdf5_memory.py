"""Reading an HDF5 file takes at most twice its tensors' bytes and 64 MB, child and reader together.

Memory is what the system counts as resident: all of the child, with its interpreter, numpy and h5py
(some 40 MB), and the growth of this process. The two peaks are added, though they need not come
together.
"""

from __future__ import annotations

import gc
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xception.weights.files import hdf5
from xception.weights.files.hdf5 import Hdf5Contents

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's counts of memory")

Read = Callable[..., Hdf5Contents]
Refusal = Callable[..., str]

MIB = 2**20
BAR_BYTES = 64_000_000
CHILD = """
import json, os, sys
answer, status = os.open({answer!r}, os.O_WRONLY), os.open("/proc/self/status", os.O_RDONLY)
sys.path.extend([*json.loads(sys.argv[1])["folders"], {folder!r}])
import hdf5_child
code = hdf5_child.main(sys.argv[1:])
lines = os.pread(status, 2**14, 0).splitlines()
os.write(answer, next(line for line in lines if line.startswith(b"VmHWM")))
os._exit(code)
"""


def resident(name: str) -> int:
    """This process's count of that name, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


@pytest.fixture
def peak(
    tmp_path: Path, good_h5: Path, h5_contents: Read, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], Any]], int]:
    """peak(read) -> bytes that the child and this process take at most while `read` runs."""
    pipe, script = tmp_path / "peak", tmp_path / "child.py"
    os.mkfifo(pipe)
    script.write_text(CHILD.format(answer=str(pipe), folder=str(Path(hdf5.__file__).parent)))
    h5_contents(good_h5)  # what a first reading imports is not counted

    def measure(read: Callable[[], Any]) -> int:
        monkeypatch.setattr(hdf5, "_CHILD", script)
        answer = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            gc.collect()
            try:
                Path("/proc/self/clear_refs").write_text("5")  # this process's peak starts anew
            except OSError:
                pytest.skip("the system does not let a process reset its peak")
            before = resident("VmRSS")
            read()
            grown = resident("VmHWM") - before
            child = int(os.read(answer, 100).split()[1]) * 1024
        finally:
            os.close(answer)
        return child + grown

    return measure


def names(count: int) -> list[str]:
    return [f"{index:05}" + "n" * 40 for index in range(count)]


def noise(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, count, "u1")


# ---------------------------------------------------------------- what is read


def many_numbers(file: Any) -> None:
    for name in names(4900):
        file[name] = np.float32(1)


def many_packed_numbers(file: Any) -> None:
    for name in names(4900):
        file.create_dataset(name, data=np.ones(1, "f4"), chunks=(1,), compression="gzip")


def many_groups(file: Any) -> None:
    file["x"] = np.ones(3, "f4")
    for name in names(4900):
        file.create_group(name).attrs["name"] = name[:60]


def many_layers(file: Any) -> None:
    for index in range(1600):
        group = file.create_group(f"layers/layer_{index}/vars")
        group.attrs["name"] = f"name_{index}"
        group["0"] = np.ones(3, "f4")


def long_text(file: Any) -> None:
    file["x"] = np.ones(3, "f4")
    file.attrs["model_config"] = "\U0001f600" + "x" * 900_000  # one wide character makes all wide


def large_chunks(file: Any) -> None:
    """Noise, which packs to more than it was, and zeros, in chunks of the largest size."""
    layout = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    content = np.concatenate([noise(4 * MIB), np.zeros(4 * MIB, "u1")]).view("f4")
    file.create_dataset("x", data=content, chunks=(3 * MIB // 4,), **layout)


def small_chunks(file: Any) -> None:
    file.create_dataset("x", data=np.arange(40_000, dtype="f4").reshape(200, 200), chunks=(1, 1))


def large_numbers(file: Any) -> None:
    file["x"] = noise(24 * MIB).view(">f4")


@pytest.mark.parametrize(
    ("libver", "make"),
    [
        ("earliest", many_numbers),
        ("earliest", many_layers),
        ("earliest", small_chunks),
        ("latest", many_numbers),
        ("latest", many_packed_numbers),
        ("latest", many_groups),
        ("latest", many_layers),
        ("latest", long_text),
        ("latest", large_chunks),
        ("latest", small_chunks),
        ("latest", large_numbers),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_files_that_are_read_stay_within_the_bar(
    peak: Callable[..., int],
    h5_path: Path,
    h5_contents: Read,
    make: Callable[[Any], None],
    libver: str,
) -> None:
    with h5py.File(h5_path, "w", libver=libver) as file:
        make(file)
    found: list[Hdf5Contents] = []
    taken = peak(lambda: found.append(h5_contents(h5_path)))
    tensor_bytes = sum(tensor.nbytes for tensor in found[0].tensors.values())
    assert tensor_bytes and taken <= BAR_BYTES + 2 * tensor_bytes


# ---------------------------------------------------------------- what is refused


def chunk_without_numbers(file: Any) -> None:
    """16 MiB unpacked for four numbers."""
    layout = {"chunks": (16 * MIB,), "maxshape": (None,), "compression": "gzip"}
    file.create_dataset("x", data=noise(4), **layout)


def chunk_with_a_tail(file: Any) -> None:
    """What is packed is far more than what comes out of it."""
    dataset = file.create_dataset("x", (1000,), "u1", chunks=(1000,), compression="gzip")
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(1000)) + bytes(32 * MIB))


def chunk_that_grows(file: Any) -> None:
    dataset = file.create_dataset("x", (1000,), "u1", chunks=(1000,), compression="gzip")
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(128 * MIB), 9))


def many_attributes(file: Any) -> None:
    """All in one header, which the library takes into memory whole."""
    file["x"] = np.ones(3, "f4")
    for index in range(400):
        file.attrs[str(index)] = noise(60_000)


def escaped_text(file: Any) -> None:
    """JSON makes 14 characters of one."""
    file["x"] = np.ones(3, "f4")
    file.attrs["model_config"] = "\x01" * 900_000


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (chunk_without_numbers, "chunks of 16,777,216 bytes, more than the 1,048,577"),
        (chunk_with_a_tail, "more memory than its size explains"),
        (chunk_that_grows, "HDF5 cannot read it"),
        (many_attributes, "more memory than its size explains"),
        (escaped_text, ""),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_that_would_take_more_are_refused_within_the_bar(
    peak: Callable[..., int],
    h5_path: Path,
    h5_refusal: Refusal,
    make: Callable[[Any], None],
    finding: str,
) -> None:
    with h5py.File(h5_path, "w", libver="earliest") as file:
        make(file)
    lines: list[str] = []
    taken = peak(lambda: lines.append(h5_refusal(h5_path)))
    assert finding in lines[0]
    assert taken <= BAR_BYTES


def test_a_chunk_may_be_as_large_as_a_quarter_of_all_numbers(
    h5_path: Path, h5_contents: Read
) -> None:
    """So is an Xception's largest tensor, packed as one chunk; the others need not be packed."""
    content = noise(5 * MIB)
    with h5py.File(h5_path, "w") as file:
        file.create_dataset("x", data=content, chunks=content.shape, compression="gzip")
        file["y"] = np.zeros(11 * MIB, "u1")
    assert np.array_equal(h5_contents(h5_path).tensors["x"].numpy(), content)
