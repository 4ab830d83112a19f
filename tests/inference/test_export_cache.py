"""Entries are built once, checked when used again, and never handed out damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xception.errors import XceptionError
from xception.inference import export_cache
from xception.inference.export_cache import ExportCache, default_folder


class Builder:
    """Writes two files, and counts how often."""

    def __init__(self, content: bytes = b"content") -> None:
        self.times = 0
        self.content = content

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "a").write_bytes(self.content)
        (folder / "b").write_bytes(self.content[::-1])


def test_built_once(tmp_path: Path) -> None:
    build = Builder()
    for _ in range(3):
        path = ExportCache(tmp_path).entry("key", build)
        assert (path / "a").read_bytes() == b"content"
    assert build.times == 1
    ExportCache(tmp_path).entry("other", build)
    assert build.times == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"t", b"u", 1))


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a", cut),
        ("b", flip),
        ("a", Path.unlink),
        ("manifest.json", Path.unlink),
        ("manifest.json", cut),
        ("manifest.json", write(b"\xff")),
        ("manifest.json", write(b"{}")),
        ("manifest.json", write(b'{"sha256": {}}')),
        ("manifest.json", write(b'{"sha256": 7}')),
        ("manifest.json", write(b'{"sha256": {"a": 1}}')),
        ("manifest.json", write(b"[" * 100_000)),
    ],
)
def test_a_damaged_entry_is_built_again(
    name: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    build, cache = Builder(), ExportCache(tmp_path)
    damage(cache.entry("key", build) / name)
    path = cache.entry("key", build)
    assert build.times == 2
    assert (path / "a").read_bytes() == b"content" and (path / "b").read_bytes() == b"tnetnoc"
    cache.entry("key", build)
    assert build.times == 2


def test_an_entry_that_could_not_be_built_is_none(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_bytes(b"half")
        raise RuntimeError("broken")

    build, cache = Builder(), ExportCache(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        cache.entry("key", fail)
    assert (cache.entry("key", build) / "a").read_bytes() == b"content"


def test_threads_wait_for_the_one_that_builds(tmp_path: Path) -> None:
    build = Builder()

    def slowly(folder: Path) -> None:
        time.sleep(0.1)
        build(folder)

    threads = [
        threading.Thread(target=ExportCache(tmp_path).entry, args=("key", slowly)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.times == 1


def test_processes_wait_for_the_one_that_builds(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from xception.inference.export_cache import ExportCache\n"
        "def build(folder):\n"
        "    open(sys.argv[2], 'a').write('built ')\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'a').write_text('content')\n"
        "path = ExportCache(sys.argv[1]).entry('key', build)\n"
        "print((path / 'a').read_text())\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "cache"), str(tmp_path / "log")]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["content\n"] * 3
    assert (tmp_path / "log").read_text() == "built "


def test_what_is_unused_for_longest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ExportCache(tmp_path)
    monkeypatch.setattr(export_cache, "MAX_BYTES", 25_000)
    for number, key in enumerate(("first", "second")):
        manifest = cache.entry(key, Builder(bytes(5_000))) / "manifest.json"
        os.utime(manifest, (number, number))  # long ago
    again = Builder(bytes(5_000))
    cache.entry("first", again)  # used: now the second is the one unused for longest
    assert again.times == 0
    cache.entry("third", Builder(bytes(5_000)))
    entries = {path.parent.name for path in tmp_path.glob("*/manifest.json")}
    assert entries == {"first", "third"} and not (tmp_path / "second").exists()
    cache.entry("huge", Builder(bytes(50_000)))  # larger than all there may be: it alone stays
    assert {path.parent.name for path in tmp_path.glob("*/manifest.json")} == {"huge"}


def test_choices_are_remembered(tmp_path: Path) -> None:
    cache = ExportCache(tmp_path)
    assert cache.recall("key") is None
    cache.remember("key", {"chosen": "torch"})
    assert ExportCache(tmp_path).recall("key") == {"chosen": "torch"}
    for damage in (b"", b"[1]", b"\xff", b"{" * 100_000, b'{"chosen": NaN}'):
        (tmp_path / "choices" / "key.json").write_bytes(damage)
        assert cache.recall("key") is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ExportCache(tmp_path / "file")
    for use in (lambda: cache.entry("key", Builder()), lambda: cache.remember("key", {})):
        with pytest.raises(XceptionError, match=r"file: exports cannot be .*XCEPTION_CACHE"):
            use()
    assert cache.recall("key") is None


def test_where_exports_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XCEPTION_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "own" / "exports"
    monkeypatch.delenv("XCEPTION_CACHE")
    assert default_folder() == tmp_path / "xdg" / "xception" / "exports"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_folder() == Path.home() / ".cache" / "xception" / "exports"
