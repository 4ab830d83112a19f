"""Downloading from a server on this machine, which does all that servers do."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from xception.weights import download as module
from xception.weights.checksum import Checksum
from xception.weights.download import UnreachableError, download

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RIGHT = (Checksum(algorithm="sha256", digits=SHA256, evidence="by its publisher"),)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "w.h5"


def left_in(path):
    """The names in the folder, but for the lock's."""
    return sorted(name for name in os.listdir(path.parent) if not name.endswith(".lock"))


def test_checked_and_told(loopback, served, path):
    loopback.files["/w"] = served(CONTENT, '"v1"')
    seen = []
    download(
        loopback.url + "/w",
        path,
        file_bytes=len(CONTENT),
        checksums=RIGHT,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert path.read_bytes() == CONTENT and left_in(path) == ["w.h5"]
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    download(loopback.url + "/w", path, checksums=RIGHT)  # is there
    assert len(loopback.asked) == 1


def test_wrong_content_is_not_kept(loopback, served, path):
    loopback.files["/w"] = served(CONTENT[:-1] + b"!", '"v1"')
    with pytest.raises(ValueError, match=f"has SHA-256 .* expected SHA-256 {SHA256} .* removed"):
        download(loopback.url + "/w", path, checksums=RIGHT)
    assert left_in(path) == []


def test_a_break_is_mended_in_the_same_call(loopback, served, path):
    loopback.files["/w"] = served(CONTENT, '"v1"', breaks=[300_000, 0, 5])
    download(loopback.url + "/w", path, file_bytes=len(CONTENT), checksums=RIGHT)
    assert path.read_bytes() == CONTENT
    assert [headers.get("Range") for headers in loopback.gets()] == [
        None,
        "bytes=300000-",
        "bytes=300000-",
        "bytes=300005-",
    ]
    assert loopback.gets()[1]["If-Range"] == '"v1"'


def test_a_break_is_mended_by_the_next_call(loopback, served, path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    file = loopback.files["/w"] = served(CONTENT, '"v1"', breaks=[300_000, 0, 0])
    with pytest.raises(
        UnreachableError, match=r"ended after 300,000 of 1,024,000 bytes.* are kept"
    ):
        download(loopback.url + "/w", path, checksums=RIGHT)
    assert left_in(path) == ["w.h5.part", "w.h5.part.json"]
    file.breaks = []
    seen = []
    download(
        loopback.url + "/w",
        path,
        checksums=RIGHT,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert path.read_bytes() == CONTENT and left_in(path) == ["w.h5"]
    assert seen[0] == (300_000, len(CONTENT)) and loopback.gets()[-1]["Range"] == "bytes=300000-"


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_a_date_names_the_version_where_no_strong_tag_does(loopback, served, path, etag):
    date = "Fri, 21 Apr 2023 21:00:00 GMT"
    headers = {"Last-Modified": date}
    loopback.files["/w"] = served(CONTENT, etag, headers=headers, breaks=[300_000])
    download(loopback.url + "/w", path, checksums=RIGHT)
    assert loopback.gets()[-1]["Range"] == "bytes=300000-"
    assert loopback.gets()[-1]["If-Range"] == date


def test_an_interruption_keeps_what_has_arrived(loopback, served, path):
    loopback.files["/w"] = served(CONTENT, '"v1"')

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(loopback.url + "/w", path, checksums=RIGHT, progress=interrupt)
    arrived = (path.parent / "w.h5.part").stat().st_size
    assert 0 < arrived < len(CONTENT) and not path.exists()
    download(loopback.url + "/w", path, checksums=RIGHT)
    assert path.read_bytes() == CONTENT
    assert loopback.gets()[-1]["Range"] == f"bytes={arrived}-"


@pytest.mark.parametrize("change", ["another version", "no ranges", "no version", "another file"])
def test_what_cannot_be_resumed_begins_anew(loopback, served, path, monkeypatch, change):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    other = b"an older version" * 60_000
    etag = None if change == "no version" else '"v0"'
    loopback.files["/w"] = served(other, etag, breaks=[300_000, 0])
    with pytest.raises(UnreachableError):
        download(loopback.url + "/w", path, checksums=RIGHT)
    loopback.files["/w"] = served(CONTENT, '"v1"', knows_ranges=change != "no ranges")
    loopback.files["/x"] = served(CONTENT, '"v0"')
    address = loopback.url + ("/x" if change == "another file" else "/w")
    download(address, path, checksums=RIGHT)
    assert path.read_bytes() == CONTENT and left_in(path) == ["w.h5"]


def test_a_part_that_is_whole_only_has_to_be_checked(loopback, served, path):
    path.parent.mkdir()
    address = loopback.url + "/w"
    (path.parent / "w.h5.part").write_bytes(CONTENT)
    state = path.parent / "w.h5.part.json"
    state.write_text(json.dumps({"address": address, "validator": '"v1"'}))
    download(address, path, file_bytes=len(CONTENT), checksums=RIGHT)
    assert path.read_bytes() == CONTENT and loopback.asked == []


def test_a_part_that_is_too_long_begins_anew(loopback, served, path):
    path.parent.mkdir()
    address = loopback.url + "/w"
    (path.parent / "w.h5.part").write_bytes(CONTENT * 2)
    state = path.parent / "w.h5.part.json"
    state.write_text(json.dumps({"address": address, "validator": '"v1"'}))
    loopback.files["/w"] = served(CONTENT, '"v1"')
    download(address, path, checksums=RIGHT)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("state", [b"", b"[]", b"{}", b"\xff", b'{"address": 1, "validator": 2}'])
def test_a_damaged_state_begins_anew(loopback, served, path, state):
    path.parent.mkdir()
    (path.parent / "w.h5.part").write_bytes(b"anything")
    (path.parent / "w.h5.part.json").write_bytes(state)
    loopback.files["/w"] = served(CONTENT, '"v1"')
    download(loopback.url + "/w", path, checksums=RIGHT)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_told_at_once(loopback, served, path, status):
    loopback.files["/w"] = served(b"no", status=status)
    with pytest.raises(UnreachableError, match=rf"cannot be downloaded \(the server says {status}"):
        download(loopback.url + "/w", path)
    assert len(loopback.asked) == 1 and not path.exists()


def test_a_server_in_trouble_is_asked_again(loopback, served, path):
    loopback.files["/w"] = served(b"", status=503)
    with pytest.raises(UnreachableError, match="503"):
        download(loopback.url + "/w", path)
    assert len(loopback.asked) == module.ATTEMPTS


def test_no_network_is_told_at_once(path, monkeypatch):
    def sleep(seconds):
        raise AssertionError("it waited")

    monkeypatch.setattr(module.time, "sleep", sleep)
    with pytest.raises(UnreachableError, match=r"cannot be downloaded \(.*refused"):
        download("http://127.0.0.1:9/w", path)


def test_redirects(loopback, served, path):
    loopback.files["/w"] = served(status=302, headers={"Location": "/there"})
    loopback.files["/there"] = served(CONTENT, '"v1"', breaks=[1000])
    download(loopback.url + "/w", path, checksums=RIGHT)
    assert path.read_bytes() == CONTENT
    assert loopback.gets()[-1]["Range"] == "bytes=1000-"  # reached the second place


def test_redirects_in_a_circle(loopback, served, path):
    loopback.files["/w"] = served(status=302, headers={"Location": "/v"})
    loopback.files["/v"] = served(status=302, headers={"Location": "/w"})
    with pytest.raises(UnreachableError, match=r"the server says 302 .*infinite loop"):
        download(loopback.url + "/w", path)
    assert len(loopback.asked) < 20


@pytest.mark.parametrize(
    "place", ["http://example.org/w", "ftp://127.0.0.1/w", "file:///etc/passwd", "//example.org/w"]
)
def test_redirects_away_from_https(loopback, served, path, place):
    loopback.files["/w"] = served(status=302, headers={"Location": place})
    with pytest.raises(UnreachableError):
        download(loopback.url + "/w", path)
    assert not path.exists()


def test_https_does_not_lead_to_http():
    import urllib.request

    request = urllib.request.Request("https://example.org/w")
    with pytest.raises(UnreachableError, match="which is not https"):
        module._CheckedRedirects().redirect_request(
            request, None, 302, "Found", {}, "http://127.0.0.1/w"
        )


@pytest.mark.parametrize(
    "address", ["http://example.org/w", "ftp://example.org/w", "file:///w", "w", "https://", ""]
)
def test_addresses_that_are_not_asked(path, address):
    with pytest.raises(UnreachableError, match="only https addresses"):
        download(address, path)


def test_sizes_that_are_not_as_known(loopback, served, path, monkeypatch):
    loopback.files["/w"] = served(CONTENT, '"v1"')
    with pytest.raises(ValueError, match="has 1,024,000 bytes at the server, expected 1,023,999"):
        download(loopback.url + "/w", path, file_bytes=len(CONTENT) - 1)
    loopback.files["/w"] = served(CONTENT, '"v1"', claimed=-1)  # and sends without end
    with pytest.raises(ValueError, match="has more than the 1,000,000 bytes"):
        download(loopback.url + "/w", path, file_bytes=1_000_000)
    monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)
    with pytest.raises(ValueError, match="has more than the 1,000,000 bytes"):
        download(loopback.url + "/w", path)
    loopback.files["/w"] = served(b"x", '"v1"', claimed=10**15)
    with pytest.raises(ValueError, match="more than the 1,000,000 allowed"):
        download(loopback.url + "/w", path)
    assert left_in(path) == []


def test_without_a_size(loopback, served, path):
    loopback.files["/w"] = served(CONTENT, claimed=-1)
    download(loopback.url + "/w", path, checksums=RIGHT)
    assert path.read_bytes() == CONTENT


def test_another_part_than_asked(loopback, served, path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    file = loopback.files["/w"] = served(CONTENT, '"v1"', breaks=[1000, 0])
    with pytest.raises(UnreachableError):
        download(loopback.url + "/w", path)
    file.status, file.headers = 206, {"Content-Range": "bytes 0-1023999/1024000"}
    with pytest.raises(UnreachableError, match="another part"):
        download(loopback.url + "/w", path)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"anything else\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nab",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 7-9/10\r\n\r\nab",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: x\r\n\r\nab",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 999 \x1b[31m\r\n\r\n",
    ],
)
def test_answers_that_are_no_http(path, monkeypatch, answer):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                with connection, suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ValueError) as error:
            download(f"http://127.0.0.1:{server.getsockname()[1]}/w", path, checksums=RIGHT)
        server.shutdown(socket.SHUT_RDWR)
    assert str(error.value).isprintable() and not path.exists()


def test_two_processes_fetch_it_once(loopback, served, path):
    loopback.files["/w"] = served(CONTENT, '"v1"', pause=0.5)
    code = (
        "import sys; from pathlib import Path; from xception.weights.download import download\n"
        "from xception.weights.checksum import Checksum\n"
        f"right = Checksum(algorithm='sha256', digits='{SHA256}', evidence='')\n"
        "download(sys.argv[1], Path(sys.argv[2]), checksums=(right,))\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = [sys.executable, "-c", code, loopback.url + "/w", str(path)]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0)] * 2
    assert path.read_bytes() == CONTENT and left_in(path) == ["w.h5"]
    assert len(loopback.asked) == 1


def test_a_folder_that_cannot_be_written(loopback, served, tmp_path):
    loopback.files["/w"] = served(CONTENT)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        download(loopback.url + "/w", tmp_path / "file" / "w.h5")
