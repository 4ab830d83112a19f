"""An HDF5 file gives exactly its numbers, or one plain line, whatever it does to the library."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xception.weights.files import hdf5
from xception.weights.files.hdf5 import Hdf5Contents, read_hdf5

h5py = pytest.importorskip("h5py")

Read = Callable[..., Hdf5Contents]
Refusal = Callable[..., str]

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunked": {"chunks": (3, 4)},
    "gzip": {"chunks": (3, 4), "compression": "gzip"},
    "gzip and shuffle": {"chunks": (3, 4), "compression": "gzip", "shuffle": True},
    "lzf and checksum": {"chunks": (5, 7), "compression": "lzf", "fletcher32": True},
}


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_number_comes_back_as_it_was(h5_contents: Read, h5_path: Path, layout: str) -> None:
    """For each dtype, both byte orders, each layout, and both ages of the file format."""
    random = np.random.default_rng(1)
    for libver in ("earliest", "latest"):
        expected = {}
        with h5py.File(h5_path, "w", libver=libver) as file:
            for dtype, order in itertools.product(DTYPES, "<>"):
                values = random.integers(0, 120, (5, 7)).astype(order + dtype)
                name = f"{dtype}{'little' if order == '<' else 'big'}"
                file.create_dataset(name, data=values, **LAYOUTS[layout])
                expected[name] = values
        tensors = h5_contents(h5_path).tensors
        assert list(tensors) == sorted(expected)
        for name, values in expected.items():
            assert tensors[name].numpy().dtype == values.dtype.newbyteorder("=")
            assert np.array_equal(tensors[name].numpy(), values), name


def test_bfloat16_is_read_as_keras_and_as_hdf5_itself_writes_it(
    h5_contents: Read, h5_path: Path
) -> None:
    values = torch.randn(3, 5).bfloat16()
    bits = values.view(torch.uint16).numpy()
    own_type = h5py.h5t.IEEE_F16LE.copy()
    own_type.set_fields(15, 7, 8, 0, 7)
    own_type.set_ebias(127)
    with h5py.File(h5_path, "w") as file:
        file["keras"] = bits.view("V2")
        space = h5py.h5s.create_simple((3, 5))
        dataset = h5py.h5d.create(file.id, b"hdf5", own_type, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, bits.copy(), own_type)
    for tensor in h5_contents(h5_path).tensors.values():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, values)


def test_odd_shapes_are_read(h5_contents: Read, h5_path: Path) -> None:
    with h5py.File(h5_path, "w") as file:
        file["scalar"] = np.float32(2.5)
        file["empty"] = np.zeros((0, 3), "f4")
        file["empty chunked"] = file.create_dataset(None, (0, 3), "f8", maxshape=(None, 3))
        file["eight axes"] = np.ones((1,) * 8, "f4")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        compact = h5py.h5d.create(
            file.id, b"compact", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), plist
        )
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(3, dtype="f4"))
    tensors = h5_contents(h5_path).tensors
    assert tensors["scalar"].shape == () and tensors["scalar"] == 2.5
    assert tensors["empty"].shape == (0, 3) and tensors["empty chunked"].shape == (0, 3)
    assert tensors["eight axes"].shape == (1,) * 8
    assert tensors["compact"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("layout", [{}, {"chunks": True, "compression": "gzip"}])
def test_large_tensors_cross_in_many_pieces(
    h5_contents: Read, h5_path: Path, layout: dict[str, Any]
) -> None:
    values = np.arange(3 * 5 * 300_001, dtype="f4").reshape(3, 5, 300_001)
    with h5py.File(h5_path, "w") as file:
        file.create_dataset("x", data=values, **layout)
        file["y"] = np.arange(1_500_000, dtype="f8")
    tensors = h5_contents(h5_path).tensors
    assert np.array_equal(tensors["x"].numpy(), values)
    assert torch.equal(tensors["y"], torch.arange(1_500_000, dtype=torch.float64))


def test_what_keras_says_of_a_file_comes_along(h5_contents: Read, h5_path: Path) -> None:
    long = [f"a_layer_with_a_long_name_{index}".encode() for index in range(3000)]
    with h5py.File(h5_path, "w") as file:
        file.attrs["model_config"] = '{"class_name": "Modèle 模型"}' + " " * 100_000
        file.attrs["keras_version"] = np.bytes_("2.0.5")
        file.attrs["backend"] = "tensorflow"
        file.attrs["training_config"] = "is not needed"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.asarray(long[:5])
        group.attrs["layer_names0"] = np.asarray(long[:1500])
        group.attrs["layer_names1"] = np.asarray(long[1500:])
        group.create_group("a").attrs["weight_names"] = ["k:0", "b:0"]
        group.create_group("b").attrs["weight_names"] = []
        group.create_group("c").attrs["name"] = "see"
    attributes = h5_contents(h5_path).attributes
    assert attributes.pop("@model_config") == '{"class_name": "Modèle 模型"}' + " " * 100_000
    names = [name.decode() for name in long]
    assert attributes == {
        "@keras_version": "2.0.5",
        "@backend": "tensorflow",
        "model_weights@layer_names": names[:5],
        "model_weights@layer_names0": names[:1500],
        "model_weights@layer_names1": names[1500:],
        "model_weights/a@weight_names": ["k:0", "b:0"],
        "model_weights/b@weight_names": [],
        "model_weights/c@name": "see",
    }


def test_the_optimizer_is_left_out_and_a_layer_of_that_name_is_not(
    h5_contents: Read, h5_path: Path
) -> None:
    with h5py.File(h5_path, "w") as file:
        for place in (
            "optimizer/vars/0",
            "optimizer_weights/adam/m",
            "layers/inner/optimizer/vars/0",
            "layers/optimizer/vars/0",
            "model_weights/optimizer/kernel",
        ):
            file[place] = np.ones(2, "f4")
    assert list(h5_contents(h5_path).tensors) == [
        "layers/optimizer/vars/0",
        "model_weights/optimizer/kernel",
    ]


def test_a_part_of_a_file_is_read_in_place(
    h5_contents: Read, h5_refusal: Refusal, good_h5: Path
) -> None:
    """As it stands in an archive, at any offset; the file's other bytes do not matter."""
    content = good_h5.read_bytes()
    expected = h5_contents(good_h5)
    good_h5.write_bytes(b"PK" + b"x" * 331 + content + b"y" * 5000)
    found = h5_contents(good_h5, size=len(content), offset=333)
    assert found.attributes == expected.attributes
    assert all(torch.equal(found.tensors[name], expected.tensors[name]) for name in found.tensors)
    assert "HDF5" in h5_refusal(good_h5, size=len(content) - 100, offset=333)


def test_a_file_behind_a_users_block_is_read(h5_contents: Read, h5_path: Path) -> None:
    with h5py.File(h5_path, "w", userblock_size=1024) as file:
        file["x"] = np.arange(4, dtype="f4")
    assert h5_contents(h5_path).tensors["x"].tolist() == [0, 1, 2, 3]


def test_the_position_of_the_file_does_not_matter(good_h5: Path) -> None:
    with good_h5.open("rb") as file:
        file.seek(777)
        assert len(read_hdf5(file, good_h5.stat().st_size).tensors) == 2
        assert len(read_hdf5(file, good_h5.stat().st_size).tensors) == 2


# ---------------------------------------------------------------- what the child may do

LIES = """
import json, os, signal, sys, time
task = json.loads(sys.argv[1])
def send(header, data=b"", total=None, length=None, missing=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    total = 8 + len(text) + len(data) + missing if total is None else total
    length = len(text) if length is None else length
    os.write(1, total.to_bytes(8, "little") + length.to_bytes(8, "little") + text + data)
x = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
"""
LYING: dict[str, tuple[str, str]] = {  # what the child does, and what is said
    "crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", "library crashed on it (SIGSEGV)"),
    "crashes amid numbers": (
        "send(x, b'1234', missing=4); os.kill(os.getpid(), signal.SIGBUS)",
        "library crashed on it (SIGBUS)",
    ),
    "ends amid numbers": ("send(x, b'1234', missing=4)", "library crashed on it (exit code 0)"),
    "refuses amid numbers": (
        "send(x, b'1234', missing=4); os.write(2, b'is bad'); sys.exit(3)",
        "is bad",
    ),
    "runs out of time": ("os.kill(os.getpid(), signal.SIGXCPU)", "far longer to read"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "the system ended the process"),
    "ends at once": ("", "library crashed on it (exit code 0)"),
    "raises": ("raise KeyError(1)", "library crashed on it (exit code 1)"),
    "refuses": ("os.write(2, b'is \\x1b[31m odd\\nso'); sys.exit(3)", r"is \x1b[31m odd\nso"),
    "refuses silently": ("sys.exit(3)", "library crashed on it (exit code 3)"),
    "claims a huge stream": ("send(x, total=2**40)", "claims 1,099,511,627,776 bytes"),
    "claims a huge header": ("send(x, length=2**30)", "process that reads it claims"),
    "sends no JSON": ("send(b'{' * 100)", "its header is no valid JSON"),
    "sends no object": ("send(b'{}x')", "its header is no valid JSON"),
    "sends too little": ("send(x, b'1234')", "its tensors need 8 bytes, 4 are there"),
    "sends too much": ("send(x, b'12345678'); os.write(1, b'9')", "more came out of it"),
    "sends for ever": ("send(x, b'12345678')\nwhile True: os.write(1, bytes(9999))", "more came"),
    "overlaps": ("send({**x, 'y': x['x']}, b'12345678')", "overlap or leave gaps"),
    "sends a strange type": (
        "x['x']['dtype'] = 'F8'; send(x, b'12')",
        "of dtype F8, which cannot be used",
    ),
    "sends truth values": (
        "x['x'].update(dtype='BOOL', data_offsets=[0, 2]); send(x, b'12')",
        "of dtype BOOL",
    ),
    "sends an attribute that is none": (
        "send({'__metadata__': {'@name': '{}'}})",
        "an attribute is no text",
    ),
    "sends bad attributes": ("send({'__metadata__': {'@name': 'NaN'}})", "attribute is no valid"),
}


@pytest.fixture
def lying(good_h5: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Replace the child by `program`; gives a good file to read. No child may be left behind."""
    started: list[Any] = []

    def replace(program: str) -> Path:
        script = good_h5.with_name("child.py")
        script.write_text(LIES + program)
        monkeypatch.setattr(hdf5, "_CHILD", script)
        start = hdf5._start

        def start_and_note(*given: Any) -> Any:
            started.append(start(*given))
            return started[-1]

        monkeypatch.setattr(hdf5, "_start", start_and_note)
        return good_h5

    yield replace
    assert len(started) == 1 and started[0].returncode is not None
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer) and t.is_alive()]


@pytest.mark.parametrize("what", LYING)
def test_a_child_that_fails_or_lies_gives_one_line(
    h5_refusal: Refusal, lying: Callable[[str], Path], what: str
) -> None:
    program, expected = LYING[what]
    line = h5_refusal(lying(program))
    assert expected in line


@pytest.mark.parametrize(
    "program",
    ["time.sleep(600)", "os.write(1, b'12'); time.sleep(600)", "os.close(1); time.sleep(600)",
     "os.write(2, bytes(9999999))"],
)  # fmt: skip
def test_a_child_that_hangs_is_ended(
    h5_refusal: Refusal, lying: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(hdf5, "CLOCK_SECONDS", 0.3)
    assert "could not be read within 0 seconds" in h5_refusal(lying(program))


def test_a_reader_that_is_interrupted_ends_its_child(
    h5_contents: Read, lying: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hdf5, "_receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        h5_contents(lying("time.sleep(600)"))


def test_missing_or_broken_h5py_is_said(
    h5_refusal: Refusal, good_h5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = hdf5._task
    monkeypatch.setattr(hdf5, "_task", lambda *given: {**task(*given), "folders": []})
    assert "h5py cannot be loaded (No module named 'h5py')" in h5_refusal(good_h5)
    monkeypatch.setattr(hdf5, "_task", task)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'needs h5py; pip install "h5py"' in h5_refusal(good_h5)


def test_a_process_that_cannot_start_is_said(
    h5_refusal: Refusal, good_h5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(good_h5.with_name("no python")))
    assert "cannot be started (No such file or directory)" in h5_refusal(good_h5)
