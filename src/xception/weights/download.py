"""Downloading one file by https: checked, resumed where it broke off, and whole or not there.

What has arrived lies in NAME.part beside the final place, with NAME.part.json that tells which
version of the file it is. The next attempt, of this call or of a later one, asks for the rest of
that very version (RFC 9110, sections 13.1.5 and 14: If-Range and Range). A lock lets one process
at a time write.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from xception.atomic import move_atomically
from xception.weights.checksum import CHUNK_BYTES, Checksum, Digests
from xception.weights.header import parse_json
from xception.weights.transfer_bar import Progress
from xception.weights.wording import quoted

MAX_BYTES = 4 * 2**30  # of a file whose size nobody has told
TIMEOUT = 30.0  # seconds without an answer or a byte
MAX_REDIRECTS = 5
ATTEMPTS = 4  # in a row that bring nothing
FIRST_WAIT = 1.0  # seconds before the second of them, doubled with each
LOCK_WAIT = 3600.0  # seconds for another process to finish
_MAX_STATE_BYTES = 4096
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that another attempt may change
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class UnreachableError(ValueError):
    """The file could not be had from there; somewhere else, or later, it may be."""


def download(
    address: str,
    path: Path,
    *,
    file_bytes: int | None = None,
    checksums: tuple[Checksum, ...] = (),
    progress: Progress = lambda done, total: None,
) -> None:
    """Fetch `address` to `path`, unless another process has put it there meanwhile.

    address: https; plain http on this machine alone
    file_bytes: the exact size, None when it is not known
    checksums: all must fit, else nothing is kept

    Raises ValueError whose text says what is wrong and what to do (UnreachableError where the
    network or server is at fault), and OSError where `path` cannot be written. A break leaves
    what has arrived for the next call.
    """
    _check_address(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if path.exists():
            return
        part = _Part(path, address, checksums)
        try:
            with part:
                _fill(part, address, file_bytes, progress)
            part.digests.check()
        except UnreachableError:
            raise
        except ValueError as error:
            part.remove()
            raise ValueError(
                f"{error}; what arrived was removed: try again, and if that changes nothing, "
                f"another file lies at {quoted(address, 500)} by now"
            ) from None
        move_atomically(part.path, path)
        part.remove()


class _Part:
    """The file while it is incomplete: its bytes so far, their digests, and of which version."""

    def __init__(self, path: Path, address: str, checksums: tuple[Checksum, ...]) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self.size = 0
        self.validator: str | None = None  # of the version that the bytes are of, for If-Range
        self.digests = Digests(checksums)
        self._state_path = path.with_name(f"{path.name}.part.json")
        self._address = address

    def __enter__(self) -> _Part:
        self._file = self.path.open("ab+")
        self._file.seek(0)
        self.validator = self._saved_validator()
        if self.validator is None:
            self._file.truncate()
        while piece := self._file.read(CHUNK_BYTES):
            self.digests.update(piece)
            self.size += len(piece)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def restart(self, validator: str | None) -> None:
        """Forget the bytes; those that come are of the version of `validator`."""
        self._file.truncate(0)
        self._file.seek(0)
        self.size, self.validator, self.digests = 0, validator, self.digests.restarted()
        state = {"address": self._address, "validator": validator}
        self._state_path.write_text(json.dumps(state), encoding="utf-8")

    def append(self, piece: bytes) -> None:
        """Add bytes at the end."""
        self._file.write(piece)
        self.digests.update(piece)
        self.size += len(piece)

    def remove(self) -> None:
        """Leave nothing behind."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def _saved_validator(self) -> str | None:
        try:
            with self._state_path.open("rb") as file:
                state = parse_json(file.read(_MAX_STATE_BYTES).decode("utf-8"), "state")
            validator = state["validator"] if state["address"] == self._address else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_sound = isinstance(validator, str) and validator.isascii() and validator.isprintable()
        return validator if is_sound else None


def _fill(part: _Part, address: str, file_bytes: int | None, progress: Progress) -> None:
    """Bring the rest of the file into `part`, in as many attempts as it takes."""
    answered, useless = False, 0
    while True:
        before = part.size
        try:
            _attempt(part, address, file_bytes, progress)
            return
        except _BrokenOffError as error:
            useless = 0 if part.size > before else useless + 1
            answered = answered or error.had_answer
            if useless >= ATTEMPTS or not answered:  # without a network it is told at once
                kept = f", {part.size:,} bytes are kept for the next try" if part.size else ""
                raise UnreachableError(f"cannot be downloaded ({error}{kept})") from None
            time.sleep(FIRST_WAIT * 2 ** max(useless - 1, 0))


class _BrokenOffError(Exception):
    """An attempt did not bring the whole file, and another may."""

    def __init__(self, reason: object, *, had_answer: bool) -> None:
        super().__init__(quoted(" ".join(str(reason).split()), 200))
        self.had_answer = had_answer


def _attempt(part: _Part, address: str, file_bytes: int | None, progress: Progress) -> None:
    if part.size and part.size == file_bytes:  # all has come, only its renaming was interrupted
        return
    with _answer(part, address) as response:
        if not _continues(response, part.size):
            part.restart(_validator(response))
        total = _total(response, part.size)
        _check_size(total, file_bytes)
        bound = file_bytes or total or MAX_BYTES
        progress(part.size, total)
        while piece := _read(response):
            if part.size + len(piece) > bound:
                raise ValueError(f"has more than the {bound:,} bytes that it should have")
            part.append(piece)
            progress(part.size, total)
    wanted = file_bytes or total
    if wanted is not None and part.size < wanted:
        raise _BrokenOffError(
            f"the connection ended after {part.size:,} of {wanted:,} bytes", had_answer=True
        )


@contextmanager
def _answer(part: _Part, address: str) -> Iterator[HTTPResponse]:
    """The server's answer to a request for what `part` lacks."""
    from xception import __version__

    headers = {"User-Agent": f"xception/{__version__}", "Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    request = urllib.request.Request(address, headers=headers)
    try:
        response = _opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and part.size:  # the version of which we have a part has gone
            part.restart(None)
            raise _BrokenOffError("the file has changed", had_answer=True) from None
        reason = f"{error.code} {error.reason}"
        if error.code in _PASSING:
            raise _BrokenOffError(reason, had_answer=True) from None
        raise UnreachableError(
            f"cannot be downloaded (the server says {quoted(' '.join(reason.split()), 200)})"
        ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise UnreachableError(f"cannot be downloaded ({quoted(error.reason, 200)})") from None
        raise _BrokenOffError(error.reason, had_answer=False) from None
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise _BrokenOffError(reason, had_answer=False) from None
    except UnreachableError:
        raise
    except ValueError as error:  # of urllib, about the address that it was redirected to
        raise UnreachableError(f"cannot be downloaded ({quoted(error, 200)})") from None
    with response:
        yield response


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke: {error}", had_answer=True) from None


def _continues(response: HTTPResponse, have: int) -> bool:
    """Whether the answer is the rest of what we have, rather than the whole file."""
    if response.status != 206:
        return False
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != have:
        raise UnreachableError("cannot be downloaded (the server sends another part than asked)")
    return True


def _validator(response: HTTPResponse) -> str | None:
    """What names this version for If-Range, where a strong comparison is possible."""
    etag = response.headers.get("ETag", "")
    if etag.startswith('"') and len(etag) <= 512 and etag.isascii():
        return etag
    modified = response.headers.get("Last-Modified", "")
    return modified if 0 < len(modified) <= 64 and modified.isascii() else None


def _total(response: HTTPResponse, have: int) -> int | None:
    """The size of the whole file, as far as the server tells."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if have and match is not None and match[3] != "*":
        return int(match[3])
    return None if response.length is None else have + response.length


def _check_size(total: int | None, file_bytes: int | None) -> None:
    if total is not None and file_bytes is not None and total != file_bytes:
        raise ValueError(f"has {total:,} bytes at the server, expected {file_bytes:,}")
    if total is not None and total > MAX_BYTES:
        raise ValueError(f"has {total:,} bytes at the server, more than the {MAX_BYTES:,} allowed")


def _check_address(address: str) -> None:
    try:
        scheme, host = urlsplit(address).scheme, urlsplit(address).hostname
    except ValueError:
        scheme, host = "", None
    if not host or not (scheme == "https" or (scheme == "http" and host in _LOOPBACK)):
        raise UnreachableError(
            f"would come from {quoted(address, 200)}; only https addresses are downloaded"
        )


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """Go on to https; from http on this machine to http on this machine, too."""
        _check_address(newurl)
        if req.type == "https" and not newurl.startswith("https:"):
            raise UnreachableError(f"is redirected to {quoted(newurl, 200)}, which is not https")
        fp.close()  # else the base class reads all that the server says beside the redirect
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """https and http alone, through the proxy of the environment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _CheckedRedirects(),
    ):
        opener.add_handler(handler)
    return opener


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, timeout=LOCK_WAIT):
            yield
    except Timeout:
        raise UnreachableError(
            f"has been downloaded by another process for {LOCK_WAIT:,.0f} seconds; end that one"
        ) from None
