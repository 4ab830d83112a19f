"""A small classifier and its file; folders of installed packages; a server on this machine."""

from __future__ import annotations

import http.server
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from xception.models import Classifier, create_model
from xception.weights import save


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Classifier]:
    """tiny(**arguments) -> a classifier of three classes with changed buffers."""

    def make(**arguments: Any) -> Classifier:
        torch.manual_seed(7)
        model = create_model("xception_tiny", **{"num_classes": 3, **arguments})
        assert isinstance(model, Classifier)
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_()
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
        return model.eval()

    return make


@pytest.fixture
def model(tiny: Callable[..., Classifier]) -> Classifier:
    made = tiny()
    made.class_names = ["bag", "coat", "shirt"]
    return made


@pytest.fixture
def model_path(model: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(model, path, provenance={"data": "pictures/"})
    return path


@pytest.fixture(scope="session")
def package_folder() -> Callable[[str], Path]:
    """package_folder(name) -> where an installed package lies. None of its code is run."""

    def find(name: str) -> Path:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            pytest.skip(f"{name} is not installed (pip install --no-deps)")
        return Path(found.origin).parent

    return find


@dataclass
class Served:
    """What the loopback server says under one path, and how badly."""

    content: bytes = b""
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    knows_ranges: bool = True
    claimed: int | None = None  # Content-Length instead of the true one; -1: none at all
    breaks: list[int] = field(default_factory=list)  # bytes before the next answers break off
    pause: float = 0.0  # seconds within the content


class Loopback:
    """An http server on this machine: `files` by path, `asked` as (method, path, headers)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    def gets(self) -> list[dict[str, str]]:
        """The headers of the requests for content."""
        return [headers for method, _, headers in self.asked if method == "GET"]


class _Handler(http.server.BaseHTTPRequestHandler):
    loopback: Loopback
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, with_content: bool) -> None:
        self.loopback.asked.append((self.command, self.path, dict(self.headers.items())))
        served = self.loopback.files.get(self.path.partition("?")[0]) or Served(status=404)
        begin, status = 0, served.status
        wanted = self.headers.get("Range")
        versions = (None, served.etag, served.headers.get("Last-Modified"))
        current = self.headers.get("If-Range") in versions
        if wanted and served.knows_ranges and current and status == 200:
            begin, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if begin >= len(served.content):
                begin, status = len(served.content), 416
        rest = served.content[begin:]
        self.send_response(status)
        if status == 206:
            last = len(served.content) - 1
            self.send_header("Content-Range", f"bytes {begin}-{last}/{len(served.content)}")
        if served.etag is not None:
            self.send_header("ETag", served.etag)
        for name, value in served.headers.items():
            self.send_header(name, value)
        claimed = len(rest) if served.claimed is None else served.claimed
        if claimed >= 0:
            self.send_header("Content-Length", str(claimed))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if with_content:
            if served.breaks:
                rest = rest[: served.breaks.pop(0)]
            half = len(rest) // 2
            self.wfile.write(rest[:half])
            time.sleep(served.pause)
            with suppress(OSError):  # the reader may have enough
                self.wfile.write(rest[half:])


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    handler = type("Handler", (_Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.loopback = Loopback(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield handler.loopback
        server.shutdown()


@pytest.fixture
def served() -> type[Served]:
    return Served
