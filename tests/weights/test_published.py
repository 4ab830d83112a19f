"""The list of published weights against the libraries that publish them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from xception.models import list_models
from xception.weights.huggingface import HubName
from xception.weights.published import find_published, published_entry, published_weights

ENTRIES = published_weights()


def test_every_entry_is_whole():
    names = [name for entry in ENTRIES for name in (entry.name, *entry.aliases)]
    assert len(set(names)) == len(names)
    for entry in ENTRIES:
        assert entry.network in list_models()
        assert entry.licence in ("MIT", "Apache-2.0")
        assert entry.num_classes in (0, 1000)
        assert (entry.top1 is None) == (entry.top1_source == "")
        assert entry.files
    assert {entry.network for entry in ENTRIES} >= {
        "xception", "xception41", "xception65", "xception71", "xception41p", "xception65p"
    }  # fmt: skip


def test_every_file_can_be_checked():
    files = [file for entry in ENTRIES for file in entry.files]
    for file in files:
        for checksum in file.checksums:
            assert checksum.evidence
        if file.is_on_hub:
            name = HubName.parse(file.address)
            assert name.file == file.file_name == "model.safetensors"
        else:
            assert file.address.startswith("https://")
            assert file.checksums and file.file_bytes is not None
    own_names = [file.file_name for file in files if not file.is_on_hub]
    assert len(set(own_names)) == len(own_names)  # they share a folder


def test_a_whole_digest_begins_as_the_file_name_says():
    file = published_entry("legacy_xception.tf_in1k").files[0]
    beginning, whole = file.checksums
    assert not beginning.is_whole and whole.is_whole
    assert whole.digits.startswith(beginning.digits) and file.sha256 == whole.digits


def test_names_and_addresses():
    entry = published_entry("xception.keras_imagenet")
    assert published_entry(entry.files[0].address) is entry is find_published(entry.name)
    assert published_entry("xception-43020ad28").name == "legacy_xception.tf_in1k"
    assert find_published("xception.imagenet") is None
    with pytest.raises(ValueError, match=r"did you mean 'xception41\.tf_in1k'"):
        published_entry("xception41.tf_1k")
    with pytest.raises(ValueError, match=r"known: xception\.keras_imagenet, "):
        published_entry("?")


def test_as_keras_says():
    spec = importlib.util.find_spec("keras")  # importing it would need one of its backends
    if spec is None or spec.origin is None:
        pytest.skip("keras is not installed")
    text = (Path(spec.origin).parent / "src/applications/xception.py").read_text()
    for name in ("xception.keras_imagenet", "xception.keras_imagenet_notop"):
        (file,) = published_entry(name).files
        assert f'file_hash="{file.checksums[0].digits}"' in text
        host, _, path = file.address.partition("/xception/")
        assert f'"{host}/"' in text and f'"xception/{path}"' in text


def test_as_timm_says():
    timm = pytest.importorskip("timm")
    by_timm = [entry for entry in ENTRIES if entry.publisher.startswith("timm")]
    for entry in by_timm:
        cfg = timm.get_pretrained_cfg(entry.name)
        p = entry.preprocessing
        assert entry.licence.lower() == cfg.license
        assert (3, *p.size) == cfg.input_size and p.crop_fraction == cfg.crop_pct
        assert (p.interpolation, p.mean, p.std) == (cfg.interpolation, cfg.mean, cfg.std)
        assert p.resize == "crop" and cfg.crop_mode == "center"
        assert entry.num_classes == cfg.num_classes
        file = entry.files[0]
        if file.is_on_hub:
            assert HubName.parse(file.address).repository == cfg.hf_hub_id
        else:
            assert file.address == cfg.url
    listed = [*timm.list_pretrained("xception*"), *timm.list_pretrained("legacy_xception*")]
    assert sorted(listed) == sorted(entry.name for entry in by_timm)
