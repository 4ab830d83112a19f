"""What an HDF5 file may not hold or claim is refused in one plain line before memory is taken."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xception.weights.files.hdf5 import Hdf5Contents

h5py = pytest.importorskip("h5py")

Read = Callable[..., Hdf5Contents]
Refusal = Callable[..., str]


# ---------------------------------------------------------------- what a file may not hold


def external_link(file: Any) -> None:
    file["x"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: Any) -> None:
    file["a"] = np.ones(3, "f4")
    file["x"] = h5py.SoftLink("/a")


def dangling_link(file: Any) -> None:
    file["x"] = h5py.SoftLink("/../../nowhere")


def external_storage(file: Any) -> None:
    file.create_dataset("x", (100,), "u1", external=[("/etc/passwd", 0, 100)])


def virtual_dataset(file: Any) -> None:
    layout = h5py.VirtualLayout((100,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "/", (100,))
    file.create_virtual_dataset("x", layout)


def virtual_dataset_without_end(file: Any) -> None:
    layout = h5py.VirtualLayout((100,), "u1", maxshape=(None,))
    source = h5py.VirtualSource("/etc/passwd", "/", (100,), maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("x", layout)


def reference(file: Any) -> None:
    file.create_dataset("x", data=file.ref, dtype=h5py.ref_dtype)


def region(file: Any) -> None:
    file["a"] = np.ones(3, "f4")
    file.create_dataset("x", data=file["a"].regionref[:2], dtype=h5py.regionref_dtype)


def lists(file: Any) -> None:
    file.create_dataset("x", (3,), h5py.vlen_dtype("f4"))[0] = [1, 2]


def fields(file: Any) -> None:
    file["x"] = np.zeros(3, [("a", "f4"), ("b", "i8")])


def strange_float(file: Any) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 20, 11, 0, 20)
    h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((3,)))


def named_type(file: Any) -> None:
    file["x"] = np.dtype("f4")


def no_shape(file: Any) -> None:
    file["x"] = h5py.Empty("f4")


def other_filter(file: Any) -> None:
    file.create_dataset("x", data=np.arange(100, dtype="i4"), chunks=(10,), scaleoffset=5)


def huge_chunk(file: Any) -> None:
    file.create_dataset("x", (2**26,), "f4", chunks=(2**26,))


def same_twice(file: Any) -> None:
    file["a/x"] = np.ones(3, "f4")
    file["b"] = file["a/x"]


def cycle(file: Any) -> None:
    group = file.create_group("a/b")
    group["a"] = file["a"]


def cycle_by_root(file: Any) -> None:
    file.create_group("a")["root"] = file["/"]


def deep(file: Any) -> None:
    file.create_group("/".join("g" * 1000))


def long_name(file: Any) -> None:
    file["n" * 300] = np.ones(3, "f4")


def long_path(file: Any) -> None:
    file["/".join("n" * 100 for _ in range(20))] = np.ones(3, "f4")


def unprintable_name(file: Any) -> None:
    file["a\x1b[31m\nb"] = np.ones(3, "f4")


def not_utf8(file: Any) -> None:
    file.create_group(b"a\xff\xfeb")


def parent_name(file: Any) -> None:
    file["a/.."] = np.ones(3, "f4")


def metadata_name(file: Any) -> None:
    file["__metadata__"] = np.ones(3, "f4")


def no_text(file: Any) -> None:
    file.attrs["layer_names"] = np.ones(3, "f4")


def text_table(file: Any) -> None:
    file.attrs["weight_names"] = np.full((2, 2), b"x")


def long_text(file: Any) -> None:
    file.attrs["model_config"] = "x" * (3 * 2**19)


def long_texts(file: Any) -> None:
    for index in range(40):
        file.create_group(f"g{index}").attrs["weight_names"] = np.full(60, b"x" * 1000)


FORBIDDEN: dict[Callable[[Any], None], str] = {
    external_link: "external link (x in /)",
    soft_link: "soft link (x in /)",
    dangling_link: "soft link (x in /)",
    external_storage: "external storage",
    virtual_dataset: "virtual dataset",
    virtual_dataset_without_end: "virtual dataset",
    reference: "holds x of a type that is no",
    region: "holds x of a type that is no",
    lists: "holds x of a type that is no",
    fields: "holds x of a type that is no",
    strange_float: "holds x of a type that is no",
    named_type: "something other than groups and numbers (x)",
    no_shape: "shape that cannot be used",
    other_filter: "a filter that is not read (number [6])",
    huge_chunk: "in chunks of more than 16,777,216 bytes",
    same_twice: "reaches one object by two ways (b)",
    cycle: "reaches one object by two ways (a/b/a)",
    cycle_by_root: "reaches one object by two ways (a/root)",
    deep: "nests more than 32 groups",
    long_name: "name that is too long",
    long_path: "name that is too long",
    unprintable_name: "name that cannot be used",
    not_utf8: "text that is no UTF-8",
    parent_name: "name that cannot be used (..)",
    metadata_name: "name that is not allowed",
    no_text: "layer_names of / that is no text",
    text_table: "weight_names of / that is no text",
    long_text: "more than 1,048,576 bytes of names and texts",
    long_texts: "more than 1,048,576 bytes of names and texts",
}


@pytest.mark.parametrize("make", FORBIDDEN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_what_leads_elsewhere_or_nowhere_is_refused(
    h5_refusal: Refusal, h5_path: Path, make: Callable[[Any], None], libver: str
) -> None:
    with h5py.File(h5_path, "w", libver=libver) as file:
        make(file)
    assert FORBIDDEN[make] in h5_refusal(h5_path)


def test_100_000_groups_are_refused(h5_refusal: Refusal, h5_path: Path) -> None:
    with h5py.File(h5_path, "w", libver="latest") as file:
        for index in range(100_000):
            h5py.h5g.create(file.id, b"%d" % index)
    assert "more than 5,000 groups" in h5_refusal(h5_path)


# ---------------------------------------------------------------- what a file may not claim


def test_4_gb_without_a_byte_stored_are_refused(h5_refusal: Refusal, h5_path: Path) -> None:
    """HDF5 allows huge datasets of which nothing is written, and gives their fill value."""
    for layout in ({}, {"chunks": (1024,)}, {"chunks": (1024,), "compression": "gzip"}):
        with h5py.File(h5_path, "w") as file:
            file.create_dataset("x", (2**30,), "f4", **layout)
        assert h5_path.stat().st_size < 10_000
        line = h5_refusal(h5_path)
        assert "claims 4,294,967,296 bytes for x and stores 0" in line
    with h5py.File(h5_path, "w") as file:
        file.create_dataset("optimizer/vars/0", (2**30,), "f4")
    assert "claims 4,294,967,296 bytes" in h5_refusal(h5_path)


def test_numbers_that_unpack_to_a_thousand_times_the_file_are_refused(
    h5_refusal: Refusal, h5_path: Path
) -> None:
    with h5py.File(h5_path, "w") as file:
        zeros = np.zeros(25 * 2**20, "f4")
        file.create_dataset("x", data=zeros, chunks=(2**18,), compression="gzip")
    assert h5_path.stat().st_size < 200_000
    assert "claims more numbers than" in h5_refusal(h5_path)


def test_chunks_of_other_axes_than_the_dataset_are_refused(
    h5_refusal: Refusal, h5_path: Path
) -> None:
    """Their reader trusts them. A dataset of two axes is made one of one in the file's bytes."""
    with h5py.File(h5_path, "w") as file:
        file.create_dataset("x", data=np.ones((4, 4), "f4"), chunks=(2, 2))
    content = h5_path.read_bytes()
    shape = b"\x01\x02\x01" + bytes(5)  # version 1, two axes, with largest sizes
    assert content.count(shape) == 1
    h5_path.write_bytes(content.replace(shape, b"\x01\x01\x01" + bytes(5)))
    line = h5_refusal(h5_path)
    assert "chunks of x have other axes than it has" in line or "HDF5 cannot read it" in line


def test_few_zeros_may_pack_well(h5_contents: Read, h5_path: Path) -> None:
    with h5py.File(h5_path, "w") as file:
        file.create_dataset("x", data=np.zeros(2**20, "f4"), chunks=True, compression="gzip")
    assert torch.equal(h5_contents(h5_path).tensors["x"], torch.zeros(2**20))


def test_a_chunk_that_unpacks_to_more_than_its_size_is_refused(
    h5_refusal: Refusal, h5_path: Path
) -> None:
    """The filter unpacks to the stream's end before the library looks at the size."""
    bomb = zlib.compress(bytes(2**29), 9)
    with h5py.File(h5_path, "w") as file:
        dataset = file.create_dataset("x", (1024,), "f4", chunks=(1024,), compression="gzip")
        dataset.id.write_direct_chunk((0,), bomb)
    assert h5_path.stat().st_size < 2**20
    line = h5_refusal(h5_path)
    assert "HDF5 cannot read it" in line or "more memory than its size explains" in line


def test_a_file_cut_anywhere_is_refused(h5_refusal: Refusal, good_h5: Path) -> None:
    content = good_h5.read_bytes()
    for size in [*range(1, 16), *range(16, len(content), len(content) // 12), len(content) - 1]:
        good_h5.write_bytes(content[:size])
        assert "cut short" in (line := h5_refusal(good_h5)) or "is not an HDF5 file" in line, size
    good_h5.write_bytes(b"")
    assert "is empty" in h5_refusal(good_h5)


def test_another_kind_of_file_is_named(h5_refusal: Refusal, h5_path: Path) -> None:
    h5_path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000))
    assert "is not an HDF5 file" in h5_refusal(h5_path)
