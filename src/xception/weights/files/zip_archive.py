"""Members of a zip archive that a stranger may have written: torch's .pth, Keras's .keras.

The directory is checked whole before any member is read: its size and count, names, sizes against
the file's, members that share bytes (how a small file unpacks into a huge one), and that each
member's own header agrees. A member is unpacked piece by piece and never beyond its checked size.

Python's zipfile is not used: it takes the directory into memory on its word, and looks neither for
overlaps nor at the local headers before a member is opened.
Source of the format: https://support.pkware.com/pkzip/appnote (sections 4.3 and 4.5.3)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from xception.weights.wording import quoted

MAX_MEMBERS = 10_000  # a network of 71 layers has some 700 tensors, each a member
MAX_DIRECTORY_BYTES = 4 * 2**20
MAX_NAME_BYTES = 512
MAX_TOTAL_BYTES = 16 * 2**30  # of all members, unpacked
MAX_RATIO = 100  # unpacked / packed bytes; JSON comes to 30, weights to 1.1
FREE_BYTES = 64 * 2**10  # unpacked bytes of a member that need no ratio: short repetitive text
PIECE_BYTES = 2**20

_AGAIN = "copy or download it again"
_END, _END_64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_BYTES, _LOCATOR_BYTES, _ENTRY_BYTES, _LOCAL_BYTES = 22, 20, 46, 30
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13  # any of the flags that say so
_SIZES_FOLLOW = 1 << 3  # the local header leaves checksum and sizes open
_ABSENT_16, _ABSENT_32 = 0xFFFF, 0xFFFFFFFF  # the value stands in a zip64 field


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One checked member. Sizes are bytes; `data_at` is where its packed bytes begin."""

    name: str
    size: int
    packed_bytes: int
    is_deflated: bool
    checksum: int  # CRC-32; 0 where the writer did not compute it, as torch can be told to
    data_at: int


class ZipArchive:
    """The members of an open archive by name, in the directory's order, without folders."""

    def __init__(self, file: BinaryIO, members: Mapping[str, ZipMember]) -> None:
        self.members = members
        self._file = file

    def read(self, name: str, most: int) -> bytes:
        """The bytes of member `name`; raises ValueError when they are more than `most`."""
        size = self.members[name].size
        if size > most:
            raise ValueError(
                f"has a member {quoted(name)!r} of {size:,} bytes, more than the {most:,} allowed; "
                "it is damaged or no model file"
            )
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of member `name` in order, at most PIECE_BYTES each.

        Together they are exactly the member's size, and its checksum holds, or ValueError is
        raised.
        """
        member = self.members[name]
        pieces = self._inflated(member) if member.is_deflated else self._packed(member)
        at, checksum = 0, 0
        for piece in pieces:
            at += len(piece)
            if at > member.size:
                break
            checksum = zlib.crc32(piece, checksum)
            yield piece
        if at != member.size:
            _damaged(f"{quoted(name)!r} does not unpack to the {member.size:,} bytes it claims")
        if member.checksum not in (0, checksum):
            _damaged(f"{quoted(name)!r} does not fit its checksum")

    def _packed(self, member: ZipMember) -> Iterator[bytes]:
        at, end = member.data_at, member.data_at + member.packed_bytes
        while at < end:
            self._file.seek(at)  # somebody else may have read in between
            piece = _exactly(self._file, min(PIECE_BYTES, end - at))
            at += len(piece)
            yield piece

    def _inflated(self, member: ZipMember) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)  # without zlib's own header
        try:
            for packed in self._packed(member):
                while packed and not unpacker.eof:
                    yield unpacker.decompress(packed, PIECE_BYTES)
                    packed = unpacker.unconsumed_tail
            while not unpacker.eof and (rest := unpacker.decompress(b"", PIECE_BYTES)):
                yield rest
        except zlib.error as error:
            _damaged(f"{quoted(member.name)!r} cannot be unpacked ({quoted(error)})")


def open_archive(file: BinaryIO, file_bytes: int) -> ZipArchive:
    """The archive in the open file of `file_bytes` bytes, its directory checked.

    Takes some 1 kB of memory a member. Raises ValueError that says what is wrong and what to do.
    """
    count, directory_at, directory_bytes = _find_directory(file, file_bytes)
    file.seek(directory_at)
    directory = _exactly(file, directory_bytes)
    entries: dict[str, _Entry] = {}
    at = 0
    for _ in range(count):
        entry, at = _parse_entry(directory, at)
        if entry.name in entries:
            _damaged(f"{quoted(entry.name)!r} occurs twice in its zip directory")
        entries[entry.name] = entry
    if at != directory_bytes:
        _damaged("its zip directory has another length than it claims")
    total = sum(entry.size for entry in entries.values())
    if total > MAX_TOTAL_BYTES:
        raise ValueError(
            f"claims to unpack to {total:,} bytes, more than the {MAX_TOTAL_BYTES:,} allowed; "
            "it is damaged or no model file"
        )
    placed = _place(file, entries, directory_at)
    folders = {name for name in entries if name.endswith("/")}
    return ZipArchive(file, {name: placed[name] for name in entries if name not in folders})


def member_names(file: BinaryIO, file_bytes: int) -> tuple[str, ...]:
    """The names in the archive, to tell what it is; raises ValueError as `open_archive` does."""
    return tuple(open_archive(file, file_bytes).members)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of one member."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    checksum: int
    packed_bytes: int
    size: int
    header_at: int


def _find_directory(file: BinaryIO, file_bytes: int) -> tuple[int, int, int]:
    """Count of members, and place and length in bytes of the directory: the archive's end says."""
    tail_bytes = min(file_bytes, _END_BYTES + 0xFFFF + _LOCATOR_BYTES)
    file.seek(file_bytes - tail_bytes)
    tail = _exactly(file, tail_bytes)
    found = tail.rfind(_END)
    while found >= 0:
        end = tail[found : found + _END_BYTES]
        if len(end) == _END_BYTES:
            _, disk, first, here, count, length, at, comment = struct.unpack("<4s4H2LH", end)
            if found + _END_BYTES + comment == tail_bytes:
                break
        found = tail.rfind(_END, 0, found)
    else:
        raise ValueError(f"is cut short: the end of its zip archive is missing; {_AGAIN}")
    stop = file_bytes - tail_bytes + found
    locator = tail[found - _LOCATOR_BYTES : found] if found >= _LOCATOR_BYTES else b""
    if locator.startswith(_LOCATOR):
        stop, wide = _read_end_64(file, stop - _LOCATOR_BYTES, locator)
        narrow = (disk, first, here, count, length, at)
        absent = (_ABSENT_16,) * 4 + (_ABSENT_32,) * 2
        if any(n not in (w, a) for n, w, a in zip(narrow, wide, absent)):
            _damaged("the two ends of its zip archive disagree")
        disk, first, here, count, length, at = wide
    if disk or first or here != count:
        raise ValueError("is one part of a split zip archive; join the parts or give a whole file")
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise ValueError(
            f"claims {count:,} zip members in a directory of {length:,} bytes; at most "
            f"{MAX_MEMBERS:,} in {MAX_DIRECTORY_BYTES:,} are read; it is damaged or no model file"
        )
    if at + length != stop:
        _damaged("its zip directory does not lie where the archive's end says")
    return count, at, length


def _read_end_64(
    file: BinaryIO, stop: int, locator: bytes
) -> tuple[int, tuple[int, int, int, int, int, int]]:
    """Where the zip64 end begins, and its six values: disks, counts, directory length and place."""
    _, _, at, _ = struct.unpack("<4sLQL", locator)
    if not 0 <= at <= stop - 56:
        _damaged("the zip64 end of its archive lies outside of it")
    file.seek(at)
    fields = struct.unpack("<4sQ2H2L4Q", _exactly(file, 56))
    signature, length, disk, first, here, count, directory_bytes, directory_at = (
        *fields[:2],
        *fields[4:],
    )
    if signature != _END_64 or at + 12 + length != stop:
        _damaged("the zip64 end of its archive is not where it should be")
    return at, (disk, first, here, count, directory_bytes, directory_at)


def _parse_entry(directory: bytes, at: int) -> tuple[_Entry, int]:
    """The entry of the directory at byte `at`, checked by itself, and where the next begins."""
    fixed = directory[at : at + _ENTRY_BYTES]
    if len(fixed) < _ENTRY_BYTES or not fixed.startswith(b"PK\x01\x02"):
        _damaged("its zip directory holds fewer members than it claims")
    (_, _, _, flags, method, _, _, checksum, packed, size) = struct.unpack("<4s6H3L", fixed[:28])
    name_bytes, extra_bytes, comment_bytes, disk, _, _, header_at = struct.unpack(
        "<5H2L", fixed[28:]
    )
    name_at = at + _ENTRY_BYTES
    extra_at = name_at + name_bytes
    stop = extra_at + extra_bytes + comment_bytes
    if stop > len(directory):
        _damaged("its zip directory ends within a member's entry")
    raw_name = directory[name_at:extra_at]
    name = _checked_name(raw_name)
    size, packed, header_at = _wide(
        name, directory[extra_at : extra_at + extra_bytes], size, packed, header_at
    )
    if flags & _ENCRYPTED:
        raise ValueError(f"is encrypted ({quoted(name)!r}); give a file without a password")
    if method not in (_STORED, _DEFLATED):
        raise ValueError(
            f"packs {quoted(name)!r} by zip method {method}, which is not read; pack it again by "
            "deflate or without compression"
        )
    if disk or (method == _STORED and packed != size) or (name.endswith("/") and size):
        _damaged(f"its zip entry of {quoted(name)!r} contradicts itself")
    if size > FREE_BYTES + MAX_RATIO * packed:
        raise ValueError(
            f"claims that {quoted(name)!r} unpacks from {packed:,} to {size:,} bytes, more than "
            f"{MAX_RATIO} times; it is damaged or no model file"
        )
    return _Entry(name, raw_name, flags, method, checksum, packed, size, header_at), stop


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    parts = name.removesuffix("/").split("/")
    if (
        len(raw) > MAX_NAME_BYTES
        or not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise ValueError(
            f"holds a zip member with a name that is not allowed ({quoted(raw)}); it is damaged or "
            "no model file"
        )
    return name


def _wide(name: str, extra: bytes, size: int, packed: int, header_at: int) -> tuple[int, int, int]:
    """The three numbers, each from the zip64 field of `extra` where the entry leaves it open."""
    values = [size, packed, header_at]
    wanted = [index for index, value in enumerate(values) if value == _ABSENT_32]
    at = 0
    while wanted and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1 and min(length, len(extra) - at) >= 8 * len(wanted):
            for index, value in zip(wanted, struct.unpack_from(f"<{len(wanted)}Q", extra, at)):
                values[index] = value
            return values[0], values[1], values[2]
        at += length
    if wanted:
        _damaged(f"its zip entry of {quoted(name)!r} lacks its sizes")
    return size, packed, header_at


def _place(
    file: BinaryIO, entries: Mapping[str, _Entry], directory_at: int
) -> dict[str, ZipMember]:
    """The members with the places of their bytes, which must not overlap and end before
    `directory_at`; their own headers must say what the directory says."""
    placed: dict[str, ZipMember] = {}
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.header_at):
        shown = repr(quoted(entry.name))
        if entry.header_at < end:
            _damaged(f"{shown} overlaps the zip member before it")
        if entry.header_at + _LOCAL_BYTES > directory_at:
            _damaged(f"{shown} lies outside of its zip archive")
        file.seek(entry.header_at)
        fixed = _exactly(file, _LOCAL_BYTES)
        signature, _, flags, method, _, _, checksum, packed, size, name_bytes, extra_bytes = (
            struct.unpack("<4s5H3L2H", fixed)
        )
        data_at = entry.header_at + _LOCAL_BYTES + name_bytes + extra_bytes
        end = data_at + entry.packed_bytes
        if end > directory_at:
            _damaged(f"{shown} lies outside of its zip archive")
        agrees = (
            signature == b"PK\x03\x04"
            and method == entry.method
            and not (flags ^ entry.flags) & _ENCRYPTED
            and name_bytes == len(entry.raw_name)
            and _exactly(file, name_bytes) == entry.raw_name
        )
        if not flags & _SIZES_FOLLOW:
            agrees &= checksum == entry.checksum
            agrees &= size in (entry.size, _ABSENT_32) and packed in (
                entry.packed_bytes,
                _ABSENT_32,
            )
        if not agrees:
            _damaged(f"{shown} is described in two ways by its zip archive")
        placed[entry.name] = ZipMember(
            entry.name,
            entry.size,
            entry.packed_bytes,
            entry.method == _DEFLATED,
            entry.checksum,
            data_at,
        )
    return placed


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise ValueError(f"became shorter while it was read; {_AGAIN}")
    return content


def _damaged(finding: str) -> NoReturn:
    raise ValueError(f"is damaged: {finding}; {_AGAIN}")
