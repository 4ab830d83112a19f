"""From names to checked files, with the list of published weights pointed at this machine."""

from __future__ import annotations

import hashlib
import os
import sys

import pytest

from xception.errors import ModelFileError, UsageError
from xception.models import Preprocessing
from xception.weights import download, published
from xception.weights.checksum import Checksum
from xception.weights.hub import is_elsewhere, resolve, weights_cache
from xception.weights.published import PublishedFile, PublishedWeights

CONTENT = b"some weights" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RIGHT = (Checksum(algorithm="sha256", digits=SHA256, evidence="by its publisher"),)
HUB_FILE = PublishedFile(address="hf-hub:o/n:model.safetensors")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Empty caches, and a hub that does not answer."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("XCEPTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_WAIT", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def publish(loopback, monkeypatch):
    """publish(*files) makes them the files of "w.test"."""

    def make(*files):
        entry = PublishedWeights(
            name="w.test",
            network="xception",
            publisher="a test",
            files=files,
            num_classes=1000,
            licence="MIT",
            preprocessing=Preprocessing(),
        )
        monkeypatch.setitem(published._BY_NAME, "w.test", entry)
        for file in files:
            monkeypatch.setitem(published._BY_ADDRESS, file.address, entry)
        return entry

    return make


@pytest.fixture
def web_file(loopback):
    return PublishedFile(address=f"{loopback.url}/w.h5", file_bytes=len(CONTENT), checksums=RIGHT)


def test_published_once_downloaded_stays(loopback, served, publish, web_file, cache, monkeypatch):
    entry = publish(web_file)
    loopback.files["/w.h5"] = served(CONTENT, '"v1"')
    found = resolve("w.test")
    assert found.path == cache / "w.h5" and found.path.read_bytes() == CONTENT
    assert found.address == web_file.address and found.published is entry and not found.config
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve("w.test") == found == resolve(web_file.address)
    assert len(loopback.asked) == 1


def test_a_file_put_there_by_hand(publish, web_file, cache, loopback):
    publish(web_file)
    cache.mkdir()
    (cache / "w.h5").write_bytes(CONTENT)
    assert resolve("w.test").path == cache / "w.h5" and loopback.asked == []


def test_another_file_in_the_cache_is_refused_and_kept(publish, web_file, cache, loopback, served):
    """Downloads are checked before they stand there, so somebody has put it there."""
    publish(web_file)
    cache.mkdir()
    (cache / "w.h5").write_bytes(b"!" + CONTENT[1:])
    with pytest.raises(ModelFileError, match=f"w.h5: has SHA-256 .* expected SHA-256 {SHA256}"):
        resolve("w.test")
    (cache / "w.h5").unlink()
    loopback.files["/w.h5"] = served(CONTENT)
    assert resolve("w.test").path.read_bytes() == CONTENT


def test_wrong_content_is_refused(publish, web_file, cache, loopback, served):
    publish(web_file)
    loopback.files["/w.h5"] = served(b"!" + CONTENT[1:])
    with pytest.raises(ModelFileError, match=r"w\.test: has SHA-256 .* expected .* removed"):
        resolve("w.test")
    assert not (cache / "w.h5").exists()


def test_without_a_network_what_to_put_where(publish, web_file, cache, monkeypatch):
    publish(PublishedFile(address="http://127.0.0.1:9/w.h5", checksums=RIGHT))
    with pytest.raises(ModelFileError) as error:
        resolve("w.test")
    assert str(error.value).startswith(
        "w.test: http://127.0.0.1:9/w.h5 cannot be downloaded ("
    ) and str(error.value).endswith(f"; put w.h5 from there (SHA-256 {SHA256}) into {cache}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    publish(web_file)
    with pytest.raises(ModelFileError, match="is not in the cache, and HF_HUB_OFFLINE is set; put"):
        resolve("w.test")


def test_the_next_address_is_tried(publish, web_file, loopback, served):
    publish(HUB_FILE, web_file)
    loopback.files["/w.h5"] = served(CONTENT)
    assert resolve("w.test").address == web_file.address


def test_the_next_address_is_tried_without_the_extra(
    publish, web_file, loopback, served, monkeypatch
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    publish(HUB_FILE, web_file)
    loopback.files["/w.h5"] = served(CONTENT)
    assert resolve("w.test").address == web_file.address
    publish(HUB_FILE)
    with pytest.raises(ModelFileError, match=r'pip install "xception\[hub\]".*and give its path'):
        resolve("w.test")


def test_what_is_cached_of_any_address_is_taken_first(publish, web_file, cache, loopback):
    publish(HUB_FILE, web_file)
    cache.mkdir()
    (cache / "w.h5").write_bytes(CONTENT)
    assert resolve("w.test").path == cache / "w.h5" and loopback.asked == []


def test_from_the_cache_of_the_hub(tmp_path, publish):
    commit = "0" * 40
    folder = tmp_path / "hf" / "models--o--n" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(CONTENT)
    (folder / "config.json").write_text('{"architecture": "xception41"}')
    found = resolve(f"hf-hub:o/n@{commit}")
    assert found.path == folder / "model.safetensors" and found.published is None
    assert found.config == {"architecture": "xception41"}
    assert found.address == f"hf-hub:o/n@{commit}:model.safetensors"
    entry = publish(
        PublishedFile(address=f"hf-hub:o/n@{commit}:model.safetensors", checksums=RIGHT)
    )
    assert resolve("w.test").published is entry


def test_a_hub_that_cannot_be_reached():
    with pytest.raises(
        ModelFileError, match=r"hf-hub:o/n: is not in the cache .* path of the file"
    ):
        resolve("hf-hub:o/n")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("xception41.tf_in1", "did you mean 'xception41.tf_in1k'"),
        ("https://example.org/w.h5", "only addresses of published weights are downloaded"),
        ("http://127.0.0.1/w.h5", "only addresses of published weights are downloaded"),
        ("hf-hub:../x", "is no repository of the hub"),
        ("hf-hub:o/n\x1b[2J", "is no repository of the hub"),
    ],
)
def test_names_that_are_none(source, said):
    with pytest.raises(UsageError) as error:
        resolve(source)
    assert said in str(error.value) and str(error.value).isprintable()


def test_what_is_elsewhere():
    for source in ("hf-hub:o/n", "https://x/y", "xception41.tf_in1k", "xception-43020ad28"):
        assert is_elsewhere(source)
    for source in ("model.safetensors", "runs/first", "hf-hub", "xception-43020ad28.pth"):
        assert not is_elsewhere(source)


def test_the_folder_of_the_cache(monkeypatch):
    monkeypatch.delenv("XCEPTION_CACHE")
    assert weights_cache() == weights_cache().home() / ".cache" / "xception" / "weights"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(publish, web_file, cache):
    publish(web_file)
    cache.mkdir(mode=0o500)
    with pytest.raises(ModelFileError, match=r"cannot be written .* set XCEPTION_CACHE"):
        resolve("w.test")


def test_a_cache_that_is_a_file(publish, web_file, cache):
    publish(web_file)
    cache.write_text("")
    with pytest.raises(ModelFileError, match=r"cannot be written .* set XCEPTION_CACHE"):
        resolve("w.test")
