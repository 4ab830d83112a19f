"""Checksums of published files."""

from __future__ import annotations

import hashlib

import pytest

from xception.weights.checksum import Checksum, Digests, check_file

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


def checksum(algorithm: str, digits: str) -> Checksum:
    return Checksum(algorithm=algorithm, digits=digits, evidence="said so")  # type: ignore[arg-type]


def test_whole_and_beginning(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(CONTENT)
    check_file(path, [checksum("sha256", SHA256), checksum("sha256", SHA256[:8])])
    check_file(path, [checksum("md5", MD5)])
    check_file(path, [])


def test_a_wrong_one_says_what_was_found_and_expected(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(CONTENT + b"!")
    found = hashlib.sha256(CONTENT + b"!").hexdigest()
    with pytest.raises(ValueError, match=f"has SHA-256 {found}, expected SHA-256 {SHA256} .said"):
        check_file(path, [checksum("sha256", SHA256)])
    with pytest.raises(ValueError, match=f"expected SHA-256 beginning with {SHA256[:8]} "):
        check_file(path, [checksum("sha256", SHA256[:8])])
    with pytest.raises(ValueError, match="has MD5"):  # all must fit
        check_file(path, [checksum("sha256", found), checksum("md5", MD5)])


def test_in_pieces():
    digests = Digests([checksum("sha256", SHA256), checksum("md5", MD5)])
    digests.update(CONTENT[:10])
    again = digests.restarted()
    digests.update(CONTENT[10:])
    digests.check()
    again.update(CONTENT)
    again.check()


@pytest.mark.parametrize("digits", ["", "1234567", SHA256.upper(), SHA256 + "0", "g" * 64])
def test_what_is_no_digest(digits):
    with pytest.raises(ValueError, match="is no SHA-256"):
        checksum("sha256", digits)
