"""The process that reads HDF5 files: its limits hold, and what it sends is in order."""

from __future__ import annotations

import importlib.util
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xception.weights.files import hdf5
from xception.weights.files.hdf5 import read_hdf5

h5py = pytest.importorskip("h5py")

FOLDER = Path(hdf5.__file__).parent


@pytest.fixture(scope="module")
def child() -> Any:
    """The child's script as a module."""
    sys.path.append(str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("hdf5_child", FOLDER / "hdf5_child.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_pieces_follow_one_another_without_gap(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PIECE_BYTES", 40)
    for shape in itertools.product((1, 2, 3, 11), repeat=3):
        values = np.arange(np.prod(shape), dtype="f4").reshape(shape)
        parts = []
        for start, count in child.pieces(shape, 4):
            part = values[tuple(slice(s, s + c) for s, c in zip(start, count))]
            assert 0 < part.nbytes <= 40
            parts.append(part.ravel())
        assert np.array_equal(np.concatenate(parts), values.ravel())
    assert list(child.pieces((0, 5), 4)) == [] and list(child.pieces((), 4)) == [((), ())]


def test_pieces_go_along_chunks(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in order and bounded, and where a row of chunks fits, each chunk is met once."""
    monkeypatch.setattr(child, "PIECE_BYTES", 60)
    monkeypatch.setattr(child, "PIECE_CHUNKS", 4)
    for shape in itertools.product((1, 3, 8), repeat=3):
        values = np.arange(np.prod(shape)).reshape(shape)
        for chunk in itertools.product((1, 2, 5), (1, 4), (2, 3, 9)):
            chunk_bytes = 4 * int(np.prod(chunk))
            parts, met = [], []
            for start, count in child.pieces(shape, 4, chunk, chunk_bytes):
                parts.append(values[tuple(slice(s, s + c) for s, c in zip(start, count))].ravel())
                assert 0 < 4 * parts[-1].size <= max(60, chunk_bytes)
                ends = [(s // n, (s + c - 1) // n + 1) for s, c, n in zip(start, count, chunk)]
                chunks = list(itertools.product(*(range(*end) for end in ends)))
                assert len(chunks) <= 4
                met += chunks
            assert np.array_equal(np.concatenate(parts), values.ravel())
            row = [-(-size // n) for size, n in zip(shape, chunk)][1:]
            if chunk[0] * shape[1] * shape[2] * 4 <= max(60, chunk_bytes) and np.prod(row) <= 4:
                assert len(met) == len(set(met))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lack some of the limits")
def test_the_child_can_open_nothing_and_takes_little_memory(tmp_path: Path) -> None:
    """Each thing is tried in the child's own process after its own limits."""
    tries = {
        "open": "open('/etc/passwd')",
        "memory": "bytearray(64 * 2**20)",
        "write": f"open({str(tmp_path / 'x')!r}, 'w')",
        "socket": "__import__('socket').socket()",
    }
    program = (
        "import sys, json, importlib\nsys.path.extend(json.loads(sys.argv[1]))\n"
        "import hdf5_child, socket\nhdf5_child.limit_resources(48 * 2**20, 5)\nfailed = []\n"
    )
    for name, attempt in tries.items():
        program += f"try: {attempt}\nexcept (OSError, MemoryError): failed.append({name!r})\n"
    program += "print(*failed)"
    folders = [str(FOLDER), *hdf5._task(1, 0)["folders"]]
    command = [sys.executable, "-I", "-c", program, json.dumps(folders)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == list(tries), done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="the system has no limit on CPU time")
def test_a_file_that_takes_for_ever_to_unpack_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of columns are unpacked anew for every row of pieces."""
    task = hdf5._task
    monkeypatch.setattr(hdf5, "_task", lambda *given: {**task(*given), "cpu_seconds": 0})
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        layout = {"chunks": (2**14, 2**9), "compression": "gzip", "compression_opts": 1}
        file.create_dataset("x", data=np.zeros((2**14, 2**13), "u1"), **layout)
        file["room"] = np.random.default_rng(0).integers(0, 255, 2**23, "u1")
    with path.open("rb") as file, pytest.raises(ValueError, match="takes far longer to read than"):
        read_hdf5(file, path.stat().st_size)
