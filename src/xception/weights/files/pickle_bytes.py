"""The bytes of a pickle, and the texts and numbers that are written in them.

No more is handed out than the file holds and the bounds allow, whatever a count in it claims.
"""

from __future__ import annotations

import codecs
from typing import BinaryIO, NoReturn

MAX_PICKLE_BYTES = 8 * 2**20  # a state dict of 700 tensors takes 0.1 MB
MAX_TEXT_BYTES = 2 * 2**20  # of one text; old torch files hold the source code of classes
MAX_LINE_BYTES = 1024  # names, and numbers written as digits
MAX_INTEGER_BYTES = 256

_AGAIN = "copy or download it again"


class PickleBytes:
    """Reads on from the file's position, of which `available` bytes are there."""

    def __init__(self, file: BinaryIO, available: int) -> None:
        self._file = file
        self._available = available
        self.read_bytes = 0

    def take(self, count: int) -> bytes:
        stop = self.read_bytes + count
        if stop > self._available:
            _cut_short()
        if stop > MAX_PICKLE_BYTES:
            raise ValueError(
                f"holds a pickle of more than {MAX_PICKLE_BYTES:,} bytes; it is damaged or no "
                "model file"
            )
        content = self._file.read(count)
        if len(content) != count:
            _cut_short()
        self.read_bytes = stop
        return content

    def line(self) -> bytes:
        """Bytes up to the end of the line, without it."""
        content = self._file.readline(min(MAX_LINE_BYTES, self._available - self.read_bytes))
        if not content.endswith(b"\n"):
            if len(content) == MAX_LINE_BYTES:
                damaged(f"a line is longer than {MAX_LINE_BYTES:,} bytes")
            _cut_short()
        self.read_bytes += len(content)
        return content[:-1]

    def number(self, size: int) -> int:
        """An unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def counted(self, size: int, most: int = MAX_TEXT_BYTES) -> bytes:
        """Bytes after their own count, which is a number of `size` bytes."""
        count = self.number(size)
        if count > self._available - self.read_bytes:
            _cut_short()
        if count > most:
            damaged(f"one value takes {count:,} bytes, more than the {most:,} allowed")
        return self.take(count)

    def data(self, size: int) -> bytes:
        return self.counted(size, MAX_PICKLE_BYTES)

    def signed(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def long_integer(self, size: int) -> int:
        return int.from_bytes(self.counted(size, MAX_INTEGER_BYTES), "little", signed=True)

    def integer_line(self) -> int | bool:
        line = self.line()
        if line in (b"00", b"01"):
            return line == b"01"
        try:
            return int(line.removesuffix(b"L"))
        except ValueError:
            damaged("an integer is not written in digits")

    def float_line(self) -> float:
        line = self.line()
        try:
            return float(line)
        except ValueError:
            damaged("a number is not written in digits")

    def text(self, size: int) -> str:
        return _decoded(self.counted(size))

    def text_line(self) -> str:
        return _decoded(self.line())

    def escaped_line(self) -> str:
        return self.line().decode("raw-unicode-escape", "replace")

    def python2_text(self, size: int) -> str | bytes:
        """Python 2 tells text from bytes as little as its pickles do: text where it is UTF-8."""
        return _decoded_or_bytes(self.counted(size))

    def python2_line(self) -> str | bytes:
        """Python 2's text of protocol 0: between quotes, with escapes."""
        line = self.line()
        try:
            if len(line) >= 2 and line[:1] == line[-1:] and line[:1] in (b"'", b'"'):
                return _decoded_or_bytes(codecs.escape_decode(line[1:-1])[0])
        except ValueError:
            pass
        damaged("a text is not written between quotes")


def damaged(finding: str) -> NoReturn:
    """Raise ValueError for a pickle in which something is not as it must be."""
    raise ValueError(f"is damaged: in its pickle {finding}; {_AGAIN}")


def _cut_short() -> NoReturn:
    raise ValueError(f"is cut short: it ends within its pickle; {_AGAIN}")


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8", "surrogatepass")  # as pickle's writers encode
    except UnicodeDecodeError:
        damaged("a text is no UTF-8")


def _decoded_or_bytes(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content
