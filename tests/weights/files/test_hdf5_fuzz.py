"""Damaged HDF5 files and archives give contents or one line: no crash of ours, no hang, no memory.

XCEPTION_FUZZ=N tries N inputs instead of a few hundred. The children are forks of one interpreter
that run the same program under the same limits, so that an input takes milliseconds; some inputs go
through processes of their own, as they do outside of tests.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from xception.weights.files import hdf5
from xception.weights.files.contents import FileContents
from xception.weights.files.keras_file import read_keras_archive, read_keras_h5

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads Linux's limits")

INPUTS = int(os.environ.get("XCEPTION_FUZZ", "300"))
OWN_PROCESSES = 12
INTERPRETER_BYTES = 64 * 2**20  # Python, numpy and h5py before they see the file


class Forked:
    """Stands for subprocess.Popen: a child that the fork server runs."""

    def __init__(self, server: socket.socket, task: dict[str, Any], file: BinaryIO) -> None:
        self._server = server
        self._code: int | None = None
        self.peak_bytes = 0
        (out, out_end), (error, error_end) = os.pipe(), os.pipe()
        self.stdout, self.stderr = (os.fdopen(end, "rb", buffering=0) for end in (out, error))
        ends = [file.fileno(), out_end, error_end]
        socket.send_fds(server, [json.dumps(task).encode()], ends)
        self._process = int(server.recv(100))
        os.close(out_end)
        os.close(error_end)

    def kill(self) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)

    def wait(self) -> int:
        if self._code is None:
            self._code, peak_kib = json.loads(self._server.recv(1000))
            self.peak_bytes = peak_kib * 1024
        return self._code


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Forked]]:
    """Lets a fork server run the children of this test; lists them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folders = [str(Path(hdf5.__file__).parent), *hdf5._task(1, 0)["folders"]]
    script = Path(__file__).with_name("hdf5_fork_server.py")
    command = [sys.executable, "-I", "-S", str(script), *folders]
    server = subprocess.Popen(command, stdin=theirs)
    theirs.close()
    started: list[Forked] = []

    def start(task: dict[str, Any], file: BinaryIO) -> Forked:
        started.append(Forked(ours, task, file))
        return started[-1]

    monkeypatch.setattr(hdf5, "_start", start)
    monkeypatch.setattr(hdf5, "CPU_SECONDS", 2)  # one in 700 makes the library turn in circles
    yield started
    ours.close()
    server.wait(10)


def seeds() -> dict[str, bytes]:
    """Small files of each form: what is damaged is then mostly structure, not numbers."""
    random_numbers = np.random.default_rng(0)
    result = {}
    for libver in ("earliest", "latest"):
        content = io.BytesIO()
        with h5py.File(content, "w", libver=libver) as file:
            for index in range(3):
                group = file.create_group(f"layers/conv_{index}/vars")
                group.attrs["name"] = f"layer_{index}"
                group["0"] = random_numbers.normal(size=(3, 5)).astype("f4")
                group["1"] = random_numbers.normal(size=4).astype(">f2")
            file["optimizer/vars/0"] = 7
        result[f"weights {libver}"] = content.getvalue()
        content = io.BytesIO()
        with h5py.File(content, "w", libver=libver) as file:
            file.attrs["model_config"] = '{"class_name": "Model", "config": {"layers": [1, 2]}}'
            file.attrs["keras_version"] = np.bytes_("2.0.5")
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = np.asarray([b"conv", b"dense"])
            layouts = {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}
            for name, layout in zip(("conv", "dense"), layouts):
                layer = group.create_group(name)
                layer.attrs["weight_names"] = ["kernel:0", "bias:0"]
                values = random_numbers.integers(0, 9, (40, 6)).astype("f4")
                layer.create_dataset("kernel:0", data=values, chunks=(16, 4), **layout)
                layer.create_dataset("bias:0", data=values[0], chunks=(2,), fletcher32=True)
        result[f"h5 {libver}"] = content.getvalue()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", method) as archive:
            archive.writestr("metadata.json", '{"keras_version": "3.3.3"}')
            archive.writestr("config.json", '{"class_name": "Functional", "config": {"a": [1]}}')
            archive.writestr("model.weights.h5", result["weights earliest"])
        result[f"archive {method}"] = content.getvalue()
    return result


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to four of: flipped bits, strange numbers, repeated, swapped, lost or cut bytes."""
    changed = bytearray(content)
    structure = [at for at, byte in enumerate(content) if byte] or [0]  # most of a file is zeros
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.choice(structure) % max(len(changed), 1)
        width = chance.choice((1, 2, 4, 8))
        kind = chance.randrange(10)
        if kind < 3:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind < 5:
            changed[at] = chance.randrange(256)
        elif kind < 8:
            numbers = (
                0,
                1,
                2**31,
                2**32 - 1,
                2**63,
                2**64 - 1,
                len(content),
                chance.randrange(2**14),
            )
            number = chance.choice(numbers) % 256**width
            changed[at : at + width] = number.to_bytes(width, "little")
        elif kind == 8:
            origin, length = chance.choice(structure), chance.choice((8, 16, 40, 100))
            changed[at : at + length] = content[origin : origin + length]
        elif chance.random() < 0.5:
            del changed[at : at + width]
        else:
            del changed[at:]
        changed = changed or bytearray(1)
    return bytes(changed)


def resealed(content: bytes) -> bytes:
    """With the checksums of the newer format's object headers and superblock set right again.

    Without, the library looks no further than the checksum. Source:
    https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html
    """
    changed = bytearray(content)
    spans = [(0, 44)] if content[8:9] in (b"\x02", b"\x03") else []
    at = content.find(b"OHDR")
    while 0 <= at < len(content) - 6:
        flags = content[at + 5]
        size_at = at + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(content[size_at : size_at + width], "little")
        spans.append((at, size_at + width + size))
        at = content.find(b"OHDR", at + 1)
    for begin, end in spans:
        if end + 4 <= len(changed):
            changed[end : end + 4] = lookup3(bytes(changed[begin:end])).to_bytes(4, "little")
    return bytes(changed)


def lookup3(content: bytes) -> int:
    """Bob Jenkins's public-domain hash of bytes, which HDF5 has as checksum."""

    def turned(value: int, by: int) -> int:
        return (value << by | value >> 32 - by) & 0xFFFFFFFF

    a = b = c = (0xDEADBEEF + len(content)) & 0xFFFFFFFF
    blocks = [content[at : at + 12].ljust(12, b"\0") for at in range(0, len(content), 12)]
    for index, block in enumerate(blocks):
        x, y, z = struct.unpack("<3I", block)
        a, b, c = (a + x) & 0xFFFFFFFF, (b + y) & 0xFFFFFFFF, (c + z) & 0xFFFFFFFF
        if index < len(blocks) - 1:
            for by in (4, 6, 8, 16, 19, 4):
                a = (a - c) & 0xFFFFFFFF ^ turned(c, by)
                c = (c + b) & 0xFFFFFFFF
                a, b, c = b, c, a
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - turned(b, by)) & 0xFFFFFFFF
        a, b, c = b, c, a
    return b


def outcome(content: bytes, path: Path, is_archive: bool) -> str:
    """How reading ends; anything but contents or a ValueError of one line fails the test."""
    path.write_bytes(content)
    read = read_keras_archive if is_archive else read_keras_h5
    with path.open("rb") as file:
        try:
            found = read(file, len(content))
        except ValueError as error:
            line = str(error)
            assert line.isprintable() and 10 < len(line) < 800, line
            return "crashed" if "library crashed" in line else "refused"
    assert isinstance(found, FileContents) and found.tensors
    return "read"


def test_seeds_are_read(tmp_path: Path) -> None:
    for name, content in seeds().items():
        assert outcome(content, tmp_path / "x", name.startswith("archive")) == "read", name
        assert resealed(content) == content


def test_a_file_that_crashes_the_library_gives_one_line(tmp_path: Path) -> None:
    """A chunked layout of no dimensions: HDF5 2.0.0 divides by zero. Found by this fuzzer."""
    content = io.BytesIO()
    with h5py.File(content, "w", libver="latest") as file:
        file.create_dataset("vars/0", data=np.ones(6, "f4"), chunks=(2,))
    layout = b"\x04\x02\x00\x02\x01\x02\x04"  # version 4, chunked, no flags, two dimensions, ...
    assert content.getvalue().count(layout) == 1
    damaged = content.getvalue().replace(layout, b"\x04\x02\x00\x00\x01\x02\x04")
    assert outcome(resealed(damaged), tmp_path / "x", False) in ("crashed", "refused")


def test_damaged_files_in_processes_of_their_own(tmp_path: Path) -> None:
    for index, (name, content) in zip(range(OWN_PROCESSES), [*seeds().items()] * OWN_PROCESSES):
        damaged = mutated(content, random.Random(1000 + index))
        outcome(damaged, tmp_path / "x", name.startswith("archive"))


def test_many_damaged_files(tmp_path: Path, children: list[Forked]) -> None:
    """Memory: the child's peak stays within its limit, this process's at 2x the file and 64 MB."""
    files = list(seeds().items())
    counts: Counter[str] = Counter()
    path = tmp_path / "x"
    tracemalloc.start()
    try:
        for index in range(INPUTS):
            name, content = files[index % len(files)]
            damaged = mutated(content, random.Random(index))
            if index % 4:
                damaged = resealed(damaged)
            tracemalloc.reset_peak()
            how = outcome(damaged, path, name.startswith("archive"))
            counts[how] += 1
            if how == "crashed" and (kept := os.environ.get("XCEPTION_FUZZ_KEEP")):
                Path(kept, f"{name} {index}".replace(" ", "_")).write_bytes(damaged)
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20 + 2 * len(damaged), index
            for child in children:
                allowed = INTERPRETER_BYTES + hdf5.MEMORY_BYTES + 2 * len(damaged)
                assert child.peak_bytes < allowed, (index, child.peak_bytes)
            children.clear()
    finally:
        tracemalloc.stop()
    print(f"{INPUTS} inputs: {dict(counts)}")
    assert counts["read"] and counts["refused"]
