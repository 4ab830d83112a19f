"""Zip archives: what others write is read, what is hostile or damaged is refused in one line."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from xception.weights.files import zip_archive
from xception.weights.files.zip_archive import (
    MAX_RATIO,
    ZipArchive,
    member_names,
    open_archive,
)

TEXT = b"a line that repeats\n" * 200
NOISE = bytes(range(256)) * 8


def opened(content: bytes) -> ZipArchive:
    return open_archive(io.BytesIO(content), len(content))


def refused(content: bytes) -> str:
    """The one line with which opening the archive, or reading all of it, is refused."""
    with pytest.raises(ValueError) as caught:
        archive = opened(content)
        for name in archive.members:
            archive.read(name, 2**30)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in members:
            with archive.open(zipfile.ZipInfo(name), "w", **options) as member:
                member.write(content)
            archive.getinfo(name).compress_type = method
    return buffer.getvalue()


def deflated(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def changed(content: bytes, signature: bytes, offset: int, form: str, value: int) -> bytes:
    """`content` with one number changed, `offset` bytes behind the first `signature`."""
    patched = bytearray(content)
    struct.pack_into(form, patched, content.index(signature) + offset, value)
    return bytes(patched)


LOCAL, CENTRAL, END, END_64 = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06"


# ---------------------------------------------------------------- what others write


@pytest.mark.parametrize("write", [zipped, deflated])
def test_members_of_python_archives(write: Callable[..., bytes]) -> None:
    archive = opened(write(("b/text.txt", TEXT), ("a", NOISE), ("empty", b"")))
    assert list(archive.members) == ["b/text.txt", "a", "empty"]
    assert archive.read("b/text.txt", 10_000) == TEXT
    assert archive.read("a", 10_000) == NOISE
    assert archive.read("empty", 0) == b""


def test_zip64_fields() -> None:
    assert opened(zipped(("a", NOISE), force_zip64=True)).read("a", 10_000) == NOISE


def test_folders_and_comments() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/a", TEXT)
        archive.comment = b"PK\x05\x06 written by hand"
    content = buffer.getvalue()
    assert member_names(io.BytesIO(content), len(content)) == ("folder/a",)


@pytest.mark.parametrize("checksums", [True, False])
def test_members_of_torch_archives(checksums: bool) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        buffer = io.BytesIO()
        torch.save({"a": torch.arange(9.0)}, buffer)
    finally:
        torch.serialization.set_crc32_options(before)
    archive = opened(buffer.getvalue())
    assert archive.read("archive/data/0", 36) == torch.arange(9.0).numpy().tobytes()


def test_large_members_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "PIECE_BYTES", 1000)
    for content in (zipped(("a", NOISE)), deflated(("a", TEXT))):
        pieces = list(opened(content).pieces("a"))
        assert len(pieces) > 2 and max(map(len, pieces)) <= 1000
        assert b"".join(pieces) in (NOISE, TEXT)


# ---------------------------------------------------------------- what is cut or damaged


def test_every_cut_is_noticed() -> None:
    content = deflated(("a", TEXT), ("b", NOISE))
    for length in range(len(content)):
        assert "cut short" in refused(content[:length])


def test_bytes_before_and_behind() -> None:
    content = zipped(("a", TEXT))
    assert "does not lie where" in refused(b"x" * 10 + content)
    assert "cut short" in refused(content + b"x")


def test_a_flipped_bit_in_a_member() -> None:
    content = bytearray(zipped(("a", TEXT)))
    content[content.index(TEXT) + 50] ^= 1
    assert "'a' does not fit its checksum" in refused(bytes(content))


def test_a_flipped_bit_in_packed_bytes() -> None:
    content = deflated(("a", TEXT))
    for at in range(31, 31 + opened(content).members["a"].packed_bytes):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        assert "is damaged" in refused(bytes(damaged))


# ---------------------------------------------------------------- what is hostile


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../a", "a/../b", "a/..", "./a", "a//b", "..", "a\\b", "C:\\a"),
        *("a\nb", "a\x00b", "a\x1b[31m", "\u202ea", "x" * 600, "/", b"\xff\xfe"),
    ],
)
def test_names_that_are_not_allowed(name: str | bytes) -> None:
    raw = name if isinstance(name, bytes) else name.encode()
    stand_in = "n" * len(raw)  # Python's writer would not write some of them
    content = zipped((stand_in, b"")).replace(stand_in.encode(), raw)
    assert "name that is not allowed" in refused(content)


def test_a_name_of_no_characters() -> None:
    content = zipped(("", b""))
    assert "name that is not allowed" in refused(content)


def test_a_name_twice() -> None:
    assert "occurs twice" in refused(zipped(("a", b"1"), ("a", b"2")))


@pytest.mark.parametrize(
    ("signature", "offset", "form", "value", "finding"),
    [
        (END, 10, "<H", 2, "one part of a split"),
        (END, 4, "<H", 1, "one part of a split"),
        (END, 12, "<L", 0xFFFFFFF0, "at most"),
        (END, 12, "<L", 40, "does not lie where"),
        (END, 16, "<L", 0xFFFFFFF0, "does not lie where"),
        (CENTRAL, 0, "<L", 0, "fewer members"),
        (CENTRAL, 8, "<H", 1, "encrypted"),
        (CENTRAL, 8, "<H", 1 << 6, "encrypted"),
        (CENTRAL, 10, "<H", 12, "zip method 12"),
        (CENTRAL, 20, "<L", 2**31, "contradicts itself"),
        (CENTRAL, 24, "<L", 2**31, "contradicts itself"),
        (CENTRAL, 24, "<L", 0xFFFFFFFF, "lacks its sizes"),
        (CENTRAL, 28, "<H", 0xFFFF, "ends within a member's entry"),
        (CENTRAL, 30, "<H", 0xFFFF, "ends within a member's entry"),
        (CENTRAL, 34, "<H", 3, "contradicts itself"),
        (CENTRAL, 42, "<L", 0xFFFFFFF0, "lies outside"),
        (CENTRAL, 42, "<L", 5, "lies outside"),
        (LOCAL, 0, "<L", 0, "described in two ways"),
        (LOCAL, 6, "<H", 1, "described in two ways"),
        (LOCAL, 8, "<H", 8, "described in two ways"),
        (LOCAL, 14, "<L", 1, "described in two ways"),
        (LOCAL, 18, "<L", 1, "described in two ways"),
        (LOCAL, 22, "<L", 1, "described in two ways"),
        (LOCAL, 26, "<H", 3, "described in two ways"),
        (LOCAL, 26, "<H", 0xFFFF, "lies outside"),
        (LOCAL, 28, "<H", 0xFFFF, "lies outside"),
        (LOCAL, 30, "<L", 0, "described in two ways"),
    ],
)
def test_fields_that_lie(
    signature: bytes, offset: int, form: str, value: int, finding: str
) -> None:
    content = zipped(("name", TEXT))
    assert finding in refused(changed(content, signature, offset, form, value))


def test_more_members_than_allowed() -> None:
    content = zipped(*((str(number), b"") for number in range(3)))
    claimed = changed(changed(content, END, 8, "<H", 60_000), END, 10, "<H", 60_000)
    assert "60,000 zip members" in refused(claimed)
    claimed = changed(changed(content, END, 8, "<H", 9_000), END, 10, "<H", 9_000)
    assert "fewer members" in refused(claimed)


def test_the_two_ends_disagree() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)  # torch writes both
    content = buffer.getvalue()
    opened(content)
    for offset, form in ((24, "<Q"), (40, "<Q"), (48, "<Q"), (16, "<L")):
        claimed = changed(content, END_64, offset, form, 2**31)
        assert "disagree" in refused(claimed)
    assert "not where it should be" in refused(changed(content, END_64, 4, "<Q", 2**62))
    locator = b"PK\x06\x07"
    assert "outside" in refused(changed(content, locator, 8, "<Q", 2**63))
    assert "not where it should be" in refused(changed(content, locator, 8, "<Q", 0))


def test_a_small_file_that_unpacks_into_a_large_one() -> None:
    content = deflated(("bomb", bytes(50 * 2**20)))
    assert len(content) < 60_000
    assert f"more than {MAX_RATIO} times" in refused(content)


def test_a_member_that_unpacks_into_more_than_it_claims() -> None:
    content = deflated(("bomb", bytes(50 * 2**20)))
    for signature, offset in ((LOCAL, 22), (CENTRAL, 24)):
        content = changed(content, signature, offset, "<L", 1000)
    tracemalloc.start()
    assert "does not unpack to the 1,000 bytes" in refused(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_member_that_unpacks_into_less_than_it_claims() -> None:
    content = deflated(("a", TEXT))
    for signature, offset in ((LOCAL, 22), (CENTRAL, 24)):
        content = changed(content, signature, offset, "<L", len(TEXT) + 1)
    assert "does not unpack" in refused(content)


def test_all_members_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "MAX_TOTAL_BYTES", 5000)
    opened(deflated(("a", TEXT)))
    assert "claims to unpack to 8,000 bytes" in refused(deflated(("a", TEXT), ("b", TEXT)))


def test_a_member_of_more_bytes_than_wanted() -> None:
    archive = opened(zipped(("a", TEXT)))
    with pytest.raises(ValueError, match="'a' of 4,000 bytes, more than the 3,999 allowed"):
        archive.read("a", 3999)


def test_members_that_share_bytes() -> None:
    """Many names for one run of packed bytes would multiply it without a ratio to notice."""
    content = zipped(("a", NOISE), ("b", NOISE))
    start = content.index(CENTRAL)
    second = content.index(CENTRAL, start + 4)
    to_first = bytearray(content)
    struct.pack_into("<L", to_first, second + 42, 0)
    assert "overlaps" in refused(bytes(to_first))


def test_a_member_inside_another() -> None:
    """A local header that lies in the bytes of the member before it."""
    inner = zipped(("b", TEXT))
    inner_end = inner.index(CENTRAL)
    outer = zipped(("a", inner[:inner_end]))
    at = outer.index(CENTRAL)
    entry = bytearray(inner[inner_end : inner.index(END)])
    struct.pack_into("<L", entry, 42, outer.index(LOCAL, 4))
    directory = outer[at : outer.index(END)] + bytes(entry)
    end = struct.pack("<4s4H2LH", END, 0, 0, 2, 2, len(directory), at, 0)
    assert "overlaps" in refused(outer[:at] + directory + end)


def test_a_file_that_shrinks_while_it_is_read() -> None:
    content = zipped(("a", TEXT))
    file = io.BytesIO(content)
    archive = open_archive(file, len(content))
    file.truncate(200)
    with pytest.raises(ValueError, match="became shorter"):
        archive.read("a", 10_000)


def test_checksums_are_those_of_zlib() -> None:
    assert opened(zipped(("a", TEXT))).members["a"].checksum == zlib.crc32(TEXT)
