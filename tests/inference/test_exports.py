"""Keys differ where an export would, and only there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from xception.export.outputs import NetworkOutput, Output
from xception.inference import exports as module
from xception.inference.export_cache import ExportCache
from xception.inference.exports import Exports, digest_of, network_digest
from xception.models import Classifier


def key(model: Classifier, size: tuple[int, int] = (16, 16), output: Output = "logits") -> str:
    return Exports(NetworkOutput(model, output), size, None, ExportCache("unused")).key


def change_weight(model: Classifier) -> None:
    with torch.no_grad():
        model.stem.conv1.weight[0, 0, 0, 0] += 1e-6


def replace_module(model: Classifier) -> None:
    model.stem.act1 = nn.GELU()


def change_setting(model: Classifier) -> None:
    model.stem.conv1.stride = (2, 2)


def name_classes(model: Classifier) -> None:
    model.class_names = list("gfedcba")


def change_preprocessing(model: Classifier) -> None:
    model.preprocessing = replace(model.preprocessing, crop_fraction=0.5)


CHANGES = [change_weight, replace_module, change_setting, name_classes, change_preprocessing]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_network_is_seen(
    change: Callable[[Classifier], None], trained: Classifier
) -> None:
    changed = copy.deepcopy(trained)
    assert network_digest(changed) == network_digest(trained) and key(changed) == key(trained)
    change(changed)
    assert network_digest(changed) != network_digest(trained) and key(changed) != key(trained)


def test_other_layouts_in_memory_are_the_same(trained: Classifier) -> None:
    changed = copy.deepcopy(trained).to(memory_format=torch.channels_last)
    assert network_digest(changed) == network_digest(trained)


def test_size_output_and_versions_count(
    trained: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(trained)
    assert key(trained, (16, 17)) != before
    assert key(trained, output="pool") != before
    monkeypatch.setattr(module, "version_of", lambda package: "newer")
    assert key(trained) != before


def test_digests_tell_parts_apart() -> None:
    parts: list[tuple[object, ...]] = [("ab", "c"), ("a", "bc"), (("a", "bc"),), ()]
    assert len({digest_of(*each) for each in parts}) == 4


def test_a_file_is_built_once_and_again_when_damaged(trained: Classifier, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    def fresh() -> Exports:
        return Exports(NetworkOutput(trained, "logits"), (16, 16), None, ExportCache(tmp_path))

    path = fresh().file("onnxruntime", "fp32")
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert fresh().file("openvino", "fp32") == path  # the two read the same
    assert path.stat().st_mtime_ns == written
    path.write_bytes(content[:-100])
    assert fresh().file("onnxruntime", "fp32") == path
    assert path.stat().st_size == len(content)
