"""Checksums of files that others published, each with the evidence that it is the right one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CHUNK_BYTES = 2**20

Algorithm = Literal["sha256", "md5"]
_DIGITS: dict[Algorithm, int] = {"sha256": 64, "md5": 32}
_SHOWN: dict[Algorithm, str] = {"sha256": "SHA-256", "md5": "MD5"}
_FEWEST_DIGITS = 8  # of a beginning; torch.hub's file names have at least as many


@dataclass(frozen=True, kw_only=True, slots=True)
class Checksum:
    """What the digest of a file must be, or begin with.

    digits: hexadecimal, lower case; fewer than the algorithm has are the beginning of the digest
    evidence: who says so
    """

    algorithm: Algorithm
    digits: str
    evidence: str

    def __post_init__(self) -> None:
        is_hexadecimal = bool(self.digits) and set(self.digits) <= set("0123456789abcdef")
        if not is_hexadecimal or not _FEWEST_DIGITS <= len(self.digits) <= _DIGITS[self.algorithm]:
            raise ValueError(f"{self.digits!r} is no {_SHOWN[self.algorithm]} in lower case digits")

    @property
    def is_whole(self) -> bool:
        """Whether every digit is known."""
        return len(self.digits) == _DIGITS[self.algorithm]

    def __str__(self) -> str:
        beginning = "" if self.is_whole else "beginning with "
        return f"{_SHOWN[self.algorithm]} {beginning}{self.digits}"


class Digests:
    """The digests of a file that comes in pieces, to be compared with `checksums` at the end."""

    def __init__(self, checksums: Iterable[Checksum]) -> None:
        self._checksums = tuple(checksums)
        self._running = {
            checksum.algorithm: hashlib.new(checksum.algorithm, usedforsecurity=False)
            for checksum in self._checksums
        }

    def update(self, piece: bytes) -> None:
        """Take in the next bytes of the file."""
        for running in self._running.values():
            running.update(piece)

    def restarted(self) -> Digests:
        """Digests for the same checksums that have seen nothing yet."""
        return Digests(self._checksums)

    def check(self) -> None:
        """Raise ValueError, with what was found and expected, unless every checksum fits."""
        for checksum in self._checksums:
            found = self._running[checksum.algorithm].hexdigest()
            if not found.startswith(checksum.digits):
                raise ValueError(
                    f"has {_SHOWN[checksum.algorithm]} {found}, expected {checksum} "
                    f"({checksum.evidence})"
                )


def check_file(path: Path, checksums: Iterable[Checksum]) -> None:
    """Raise ValueError unless every checksum fits the file; OSError when it cannot be read."""
    digests = Digests(checksums)
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digests.update(piece)
    digests.check()
