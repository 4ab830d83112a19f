"""Files of the hub: from a prepared cache folder, and from a server on this machine.

huggingface_hub reads its environment once, so what goes over the network runs in processes of
their own, with HF_ENDPOINT and HF_HOME set.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from xception.errors import UsageError
from xception.weights import huggingface as module
from xception.weights.checksum import Checksum
from xception.weights.download import UnreachableError
from xception.weights.huggingface import HubName, choose_file, fetch

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
WEIGHTS = b"safetensors" * 20_000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CONFIG = {"architecture": "xception41", "pretrained_cfg": {"crop_pct": 0.903}}


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("hf-hub:o/n", HubName("o/n")),
        ("hf-hub:timm/xception41.tf_in1k", HubName("timm/xception41.tf_in1k")),
        ("hf-hub:o/n@v1.0", HubName("o/n", "v1.0")),
        ("hf-hub:o/n@refs/pr/1:sub/w.h5", HubName("o/n", "refs/pr/1", "sub/w.h5")),
        ("hf-hub:o/n:my model.keras", HubName("o/n", None, "my model.keras")),
    ],
)
def test_names(text, parsed):
    assert HubName.parse(text) == parsed and str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf-hub:",
        "hf-hub:n",
        "hf-hub:o/n/m",
        "hf-hub:../n",
        "hf-hub:o/..",
        "hf-hub:o/a..b",
        "hf-hub:o/a--b",
        "hf-hub:o/n.",
        "hf-hub:o/-n",
        "hf-hub:o/n\n",
        "hf-hub:o/n?x",
        "hf-hub:o/nä",
        f"hf-hub:o/{'n' * 97}",
        "hf-hub:o/n@",
        "hf-hub:o/n@../main",
        "hf-hub:o/n@a/../b",
        "hf-hub:o/n@a b",
        "hf-hub:o/n:",
        "hf-hub:o/n:/etc/passwd",
        "hf-hub:o/n:../w",
        "hf-hub:o/n:a/../../w",
        "hf-hub:o/n:a//w",
        "hf-hub:o/n:a\\w",
        "hf-hub:o/n:C:w",
        "hf-hub:o/n:.hidden",
    ],
)
def test_names_that_are_refused(text):
    with pytest.raises(UsageError) as error:
        HubName.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "config.json"], "model.safetensors"),
        (["pytorch_model.bin", "flax_model.msgpack", "a.keras"], "pytorch_model.bin"),
        (["README.md", "kitchenware.keras"], "kitchenware.keras"),
        (["best.pth", "export/x.safetensors"], "export/x.safetensors"),
        (["README.md"], None),
        ([], None),
    ],
)
def test_which_file_holds_the_weights(names, chosen):
    assert choose_file("hf-hub:o/n", names) == chosen


def test_several_files_that_may_be_meant():
    with pytest.raises(UsageError, match=r"holds a\.pth, b\.pth; say which by hf-hub:o/n:a\.pth"):
        choose_file("hf-hub:o/n", ["b.pth", "a.pth"])


# ---------------------------------------------------------------- a prepared cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache as huggingface_hub leaves it; and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--o--n"
    for name in ("refs", "blobs", f"snapshots/{COMMIT}"):
        (folder / name).mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)

    def put(name, content, digest=None):
        blob = folder / "blobs" / (digest or hashlib.sha256(content).hexdigest())
        blob.write_bytes(content)
        (folder / "snapshots" / COMMIT / name).symlink_to(blob)
        return folder

    return put


def cached(text, checksums=(), offline=True):
    return fetch(HubName.parse(text), checksums=checksums, offline=offline)


def test_what_is_cached_needs_no_network(cache):
    cache("model.safetensors", WEIGHTS)
    cache("config.json", json.dumps(CONFIG).encode())
    for text in ("hf-hub:o/n", "hf-hub:o/n@main", f"hf-hub:o/n@{COMMIT}:model.safetensors"):
        for offline in (True, False):
            file = cached(text, offline=offline)
            assert file.path.read_bytes() == WEIGHTS and file.config == CONFIG
            assert str(file.name) == f"hf-hub:o/n@{COMMIT}:model.safetensors"


@pytest.mark.parametrize(
    "text",
    ["hf-hub:o/n@other", f"hf-hub:o/n@{OTHER}", "hf-hub:o/n:other.pth", "hf-hub:o/m"],
)
def test_what_is_not_cached(cache, text, tmp_path):
    cache("model.safetensors", WEIGHTS)
    with pytest.raises(UnreachableError, match=f"not in the cache {tmp_path}, and HF_HUB_OFFLINE"):
        cached(text)


def test_a_cached_file_is_checked(cache):
    folder = cache("model.safetensors", WEIGHTS[:-1] + b"!", digest=SHA256)
    with pytest.raises(ValueError, match=f"has SHA-256 .* expected SHA-256 {SHA256} .stated by"):
        cached("hf-hub:o/n")
    assert os.listdir(folder / "blobs") == os.listdir(folder / "snapshots" / COMMIT) == []


def test_a_cached_file_is_checked_against_what_was_published(cache):
    cache("model.safetensors", WEIGHTS)
    right = Checksum(algorithm="sha256", digits=SHA256, evidence="published")
    wrong = Checksum(algorithm="sha256", digits="0" * 64, evidence="published")
    assert cached("hf-hub:o/n", checksums=(right,)).path.is_file()
    with pytest.raises(ValueError, match=f"expected SHA-256 {'0' * 64} .published"):
        cached("hf-hub:o/n", checksums=(wrong,))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'{"a":' * 100_000],
)
def test_a_config_that_is_none(cache, content):
    cache("model.safetensors", WEIGHTS)
    cache("config.json", content)
    assert cached("hf-hub:o/n").config is None


def test_a_config_without_end(cache, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONFIG_BYTES", 50)
    cache("model.safetensors", WEIGHTS)
    cache("config.json", json.dumps(CONFIG).encode() + b" " * 100)
    assert cached("hf-hub:o/n").config is None


@pytest.mark.parametrize("reference", ["../../x", "", "main", COMMIT[:-1], "\xff"])
def test_a_damaged_cache_is_no_cache(cache, reference):
    folder = cache("model.safetensors", WEIGHTS)
    (folder / "refs" / "main").write_text(reference, encoding="latin-1")
    with pytest.raises(UnreachableError):
        cached("hf-hub:o/n")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnreachableError, match=r'pip install "xception\[hub\]"'):
        cached("hf-hub:o/n")


# ---------------------------------------------------------------- a server


@pytest.fixture
def hub(loopback, served, tmp_path):
    """hub(files) serves the repository o/n; the result asks for names in another process."""

    def serve(files, commit=COMMIT, sizes=None, digests=None):
        siblings = []
        for name, content in files.items():
            digest = (digests or {}).get(name) or hashlib.sha256(content).hexdigest()
            size = (sizes or {}).get(name, len(content))
            lfs = {"sha256": digest, "size": size, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": size, "lfs": lfs, "blobId": "0" * 40})
            for revision in ("main", commit):
                headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{digest}"'}
                headers["X-Linked-Size"] = str(len(content))
                loopback.files[f"/o/n/resolve/{revision}/{name}"] = served(
                    content, f'"{digest}"', headers=headers
                )
        info = json.dumps({"id": "o/n", "sha": commit, "siblings": siblings}).encode()
        for place in ("", "/revision/main", f"/revision/{commit}"):
            loopback.files[f"/api/models/o/n{place}"] = served(info)

    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": loopback.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    def ask(text, before="", digits="", **more):
        code = (
            "import sys; from xception.weights.huggingface import HubName, fetch\n"
            "from xception.weights.checksum import Checksum\n"
            f"{before}\n"
            "known = tuple(Checksum(algorithm='sha256', digits=d, evidence='published')\n"
            "    for d in sys.argv[2:] if d)\n"
            "try: file = fetch(HubName.parse(sys.argv[1]), checksums=known, offline=False)\n"
            "except Exception as error: print(f'{type(error).__name__}: {error}')\n"
            "else: print(file.name, file.config, file.path.stat().st_size)\n"
            "assert 'torch' not in sys.modules\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, text, digits],
            capture_output=True,
            text=True,
            env={**environment, **more},
        )
        assert done.returncode == 0, done.stderr
        ask.stderr = done.stderr
        return done.stdout.strip()

    serve.ask = ask
    return serve


FULL = f"hf-hub:o/n@{COMMIT}:model.safetensors"


def test_from_the_network_and_then_from_the_cache(hub, loopback):
    hub({"model.safetensors": WEIGHTS, "config.json": json.dumps(CONFIG).encode()})
    said = f"{FULL} {CONFIG} {len(WEIGHTS)}"
    assert hub.ask("hf-hub:o/n", digits=SHA256) == said
    assert "model.safetensors" not in hub.ask.stderr  # no bar without a terminal
    asked = len(loopback.asked)
    assert hub.ask("hf-hub:o/n") == said == hub.ask("hf-hub:o/n@main")
    assert len(loopback.asked) == asked
    assert hub.ask("hf-hub:o/n", HF_HUB_OFFLINE="1") == said


def test_a_repository_without_config_is_asked_once(hub, loopback, served):
    hub({"model.safetensors": WEIGHTS})
    headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    loopback.files["/o/n/resolve/main/config.json"] = served(status=404, headers=headers)
    assert hub.ask("hf-hub:o/n") == f"{FULL} None {len(WEIGHTS)}"
    asked = len(loopback.asked)
    assert hub.ask("hf-hub:o/n") == f"{FULL} None {len(WEIGHTS)}"
    assert len(loopback.asked) == asked


def test_a_config_is_added_to_weights_that_another_program_cached(hub, loopback):
    hub({"model.safetensors": WEIGHTS, "config.json": json.dumps(CONFIG).encode()})
    alone = "from huggingface_hub import hf_hub_download as get; get('o/n', 'model.safetensors')"
    assert hub.ask("hf-hub:o/n", before=alone) == f"{FULL} {CONFIG} {len(WEIGHTS)}"
    contents = [path for method, path, _ in loopback.asked if method == "GET"]
    assert contents.count("/o/n/resolve/main/model.safetensors") == 1


def test_and_left_out_where_that_cannot_be(hub, loopback):
    hub({"model.safetensors": WEIGHTS})
    alone = "from huggingface_hub import hf_hub_download as get; get('o/n', 'model.safetensors')"
    for place in ("", "/revision/main", f"/revision/{COMMIT}"):
        del loopback.files[f"/api/models/o/n{place}"]
    assert hub.ask("hf-hub:o/n", before=alone) == f"{FULL} None {len(WEIGHTS)}"


def test_a_break_is_mended(hub, loopback):
    from huggingface_hub import constants

    chunk = constants.DOWNLOAD_CHUNK_SIZE  # what the library keeps at a time
    hub({"model.safetensors": bytes(chunk + 1000)})
    file = loopback.files["/o/n/resolve/main/model.safetensors"]
    file.breaks = [chunk + 100]
    assert hub.ask("hf-hub:o/n").startswith(FULL)
    assert file.breaks == [] and f"bytes={chunk}-" in [h.get("Range") for h in loopback.gets()]


def test_content_that_is_not_what_the_hub_states(hub):
    hub({"model.safetensors": WEIGHTS}, digests={"model.safetensors": "1" * 64})
    said = hub.ask("hf-hub:o/n")
    assert said.startswith("ValueError: has SHA-256 ") and "removed from the cache" in said
    hub({"model.safetensors": WEIGHTS})
    assert hub.ask("hf-hub:o/n").startswith(FULL)  # nothing wrong was kept


def test_content_that_is_not_what_was_published(hub):
    hub({"model.safetensors": WEIGHTS})
    assert "expected SHA-256 22222222" in hub.ask("hf-hub:o/n", digits="2" * 64)


def test_what_is_too_large_is_not_fetched(hub, loopback):
    hub({"model.safetensors": WEIGHTS}, sizes={"model.safetensors": 10**12})
    assert hub.ask("hf-hub:o/n").startswith("ValueError: has 1,000,000,000,000 bytes, more than")
    hub(
        {"model.safetensors": WEIGHTS, "config.json": b"{}"},
        sizes={"config.json": 10**9},
    )
    assert hub.ask("hf-hub:o/n") == f"{FULL} None {len(WEIGHTS)}"
    assert not any("config.json" in path for _, path, _ in loopback.asked)


def test_what_a_repository_does_not_hold(hub):
    hub({"README.md": b"# x", "../../evil.pth": b"x"})
    assert "holds no file of weights, but README.md;" in hub.ask("hf-hub:o/n")
    assert "holds no file 'w.pth', but README.md;" in hub.ask("hf-hub:o/n:w.pth")
    hub({"a.pth": b"x", "b.pth": b"y"})
    assert hub.ask("hf-hub:o/n").startswith("UsageError: hf-hub:o/n: holds a.pth, b.pth")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "ValueError: is no repository of the hub, or a private one"),
        (401, "RepoNotFound", "ValueError: is no repository of the hub, or a private one"),
        (404, "RevisionNotFound", "ValueError: has no such revision"),
        (403, "GatedRepo", "ValueError: is open only to whom its owners admit"),
        (500, "", "UnreachableError: cannot be downloaded (Server error '500"),
    ],
)
def test_what_the_hub_refuses(hub, loopback, served, status, code, said):
    headers = {"X-Error-Code": code} if code else {}
    loopback.files["/api/models/o/n"] = served(b"{}", status=status, headers=headers)
    told = hub.ask("hf-hub:o/n")
    assert told.startswith(said) and "\n" not in told


def test_no_network(hub):
    told = hub.ask("hf-hub:o/n", HF_ENDPOINT="http://127.0.0.1:9")
    assert told.startswith("UnreachableError: cannot be downloaded (") and "\n" not in told
