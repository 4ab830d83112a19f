"""ImageNet's class names: as many as outputs, all different, in the usual order."""

from __future__ import annotations

import sys
import types

import pytest

from xception.errors import XceptionError
from xception.models import create_model
from xception.weights import imagenet as module
from xception.weights import load, save
from xception.weights.imagenet import imagenet_classes


@pytest.fixture(autouse=True)
def fresh():
    imagenet_classes.cache_clear()
    yield
    imagenet_classes.cache_clear()


def test_a_model_file_takes_them(tmp_path):
    model = create_model("xception_tiny", num_classes=1000)
    model.class_names = list(imagenet_classes())
    save(model, tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").class_names == list(imagenet_classes())


def test_the_usual_order():
    names = imagenet_classes()
    assert (names[0], names[207], names[282], names[999]) == (
        "tench", "golden retriever", "tiger cat", "toilet tissue"
    )  # fmt: skip


def test_the_four_alike_carry_their_wordnet_number():
    names = imagenet_classes()
    assert [name for name in names if name.endswith(")")] == [
        "crane (n02012849)",
        "crane (n03126707)",
        "maillot (n03710637)",
        "maillot (n03710721)",
    ]


def test_as_wordnet_says():
    """timm carries the WordNet numbers in the order of the outputs, and their words."""
    data = pytest.importorskip("timm.data")
    info = data.ImageNetInfo("imagenet-1k")
    numbers = info.label_names()
    words = [info.label_name_to_description(number, detailed=False) for number in numbers]
    first = [word.partition(",")[0] for word in words]
    for i, name in enumerate(imagenet_classes()):
        alike = first.count(first[i]) > 1
        assert name == (f"{first[i]} ({numbers[i]})" if alike else first[i]), i


def test_another_torchvision(monkeypatch):
    monkeypatch.setattr(module, "_categories", lambda: ["tench"] * 1000)
    with pytest.raises(XceptionError, match="torchvision names 5 different classes"):
        imagenet_classes()
    monkeypatch.setattr(module, "_categories", lambda: ["tench"])
    with pytest.raises(XceptionError, match="torchvision names 1 different classes"):
        imagenet_classes()


def test_a_torchvision_without_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", types.ModuleType("empty"))
    with pytest.raises(XceptionError, match="does not give ImageNet's class names"):
        imagenet_classes()
