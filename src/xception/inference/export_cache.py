"""Exported networks and measured choices, kept between processes and checked when used again.

    FOLDER/KEY/            files of one exported network, and manifest.json with their SHA-256
    FOLDER/choices/KEY.json    what was measured, and chosen

FOLDER is $XCEPTION_CACHE/exports, else $XDG_CACHE_HOME/xception/exports, else
~/.cache/xception/exports. Keys are digests of all that the content depends on, so nothing in it
grows old; what has not been used for longest goes when there is more than `MAX_BYTES`. A lock lets
one process at a time build an entry while others wait for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xception.atomic import write_atomically
from xception.errors import XceptionError
from xception.weights.header import parse_json

MAX_BYTES = 4 * 2**30  # of all entries: some forty exports of the paper's network
LOCK_WAIT = 3600.0  # seconds for another process to build or measure
CHUNK_BYTES = 2**20
_MAX_JSON_BYTES = 2**16
_MANIFEST = "manifest.json"


def default_folder() -> Path:
    """Where exports are kept unless a folder is given."""
    if own := os.environ.get("XCEPTION_CACHE"):
        return Path(own).expanduser() / "exports"
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not shared.is_absolute():  # the XDG specification has a relative one ignored
        shared = Path("~/.cache").expanduser()
    return shared / "xception" / "exports"


class ExportCache:
    """One folder of exports. Raises XceptionError where it cannot be read or written."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder).expanduser()

    def entry(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of the entry `key`: there and whole, or else built.

        build: writes the entry's files into the folder that it is given
        """
        path = self.folder / key
        with self.locked(key):
            with suppress(OSError, ValueError, KeyError, TypeError):
                _check(path)
                os.utime(path / _MANIFEST)
                return path
            with self._writing():
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
                build(path)
                write_atomically(path / _MANIFEST, _manifest(path))
        self._make_room(key)
        return path

    def recall(self, key: str) -> dict[str, Any] | None:
        """What was remembered under `key`, JSON to be checked before use; None without it."""
        with suppress(OSError, ValueError):
            content = _read_json(self._choice(key))
            return content if isinstance(content, dict) else None
        return None

    def remember(self, key: str, content: dict[str, Any]) -> None:
        """Keep plain JSON under `key`."""
        with self._writing():
            self._choice(key).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._choice(key), json.dumps(content).encode())

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Keep other processes and threads from building or measuring the same."""
        from filelock import FileLock, Timeout

        lock = self.folder / "locks" / f"{key}.lock"
        with self._writing():
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = FileLock(lock, timeout=LOCK_WAIT)
            try:
                held.acquire()
            except Timeout:
                raise XceptionError(
                    f"{lock}: another process has held it for {LOCK_WAIT:,.0f} seconds; end that "
                    "one, or give another cache folder"
                ) from None
        try:
            yield
        finally:
            held.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise XceptionError(
                f"{self.folder}: exports cannot be kept there ({reason}); make room, or set "
                "XCEPTION_CACHE (or give cache=) to a folder that can be written"
            ) from None

    def _choice(self, key: str) -> Path:
        return self.folder / "choices" / f"{key}.json"

    def _make_room(self, newest: str) -> None:
        """Remove entries, the longest unused first, until the others fit; not `newest`."""
        with suppress(OSError):
            manifests = sorted(
                self.folder.glob(f"*/{_MANIFEST}"), key=lambda path: path.stat().st_mtime
            )
            sizes = [sum(f.stat().st_size for f in m.parent.iterdir()) for m in manifests]
            total = sum(sizes)
            for manifest, size in zip(manifests, sizes, strict=True):
                if total <= MAX_BYTES:
                    return
                if manifest.parent.name != newest:
                    manifest.unlink()  # first: without it what is left of the entry counts as none
                    shutil.rmtree(manifest.parent, ignore_errors=True)
                    total -= size


def _manifest(path: Path) -> bytes:
    files = {file.name: _sha256(file) for file in sorted(path.iterdir())}
    return json.dumps({"sha256": files}).encode()


def _check(path: Path) -> None:
    """Raises one of OSError, ValueError, KeyError, TypeError unless all files are as written."""
    files = _read_json(path / _MANIFEST)["sha256"]
    if not files or any(_sha256(path / Path(name).name) != files[name] for name in files):
        raise ValueError("differs from its manifest")


def _read_json(path: Path) -> Any:
    with path.open("rb") as file:
        return parse_json(file.read(_MAX_JSON_BYTES).decode("utf-8"), "entry")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
