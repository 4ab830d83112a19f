"""The registry: names, arguments, and errors that propose the nearest one."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from xception.models import (
    ModelEntry,
    Xception,
    create_model,
    list_models,
    model_entry,
    register,
    registry,
    resolved_arguments,
)
from xception.models.layout import TINY


def test_names() -> None:
    assert list_models() == [
        "xception", "xception41", "xception65", "xception71", "xception41p", "xception65p",
        "xception_tiny", "xception_small", "mini_xception",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong, near",
    [("xcepton", "xception"), ("xception_tinny", "xception_tiny"), ("Xception41", "xception41")],
)
def test_an_unknown_model_proposes_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no model named {wrong!r}; did you mean {near!r}"):
        create_model(wrong)


def test_an_unknown_model_near_none_lists_them() -> None:
    with pytest.raises(ValueError, match="no model named 'vgg'; known: xception, "):
        create_model("vgg")


@pytest.mark.parametrize(
    "wrong, near",
    [("segment", "segments"), ("dropuot", "dropout"), ("outputstride", "output_stride")],
)
def test_an_unknown_argument_proposes_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no argument {wrong!r}; did you mean {near!r}"):
        create_model("xception_tiny", **{wrong: 1})


def test_an_argument_near_none_lists_them() -> None:
    with pytest.raises(ValueError, match=r"no argument 'zzz'; it takes .*output_stride"):
        create_model("xception41", zzz=1)


def test_architecture_is_a_json_copy_of_every_argument() -> None:
    units = [16, 8]
    model = create_model("xception_tiny", num_classes=3, fc_units=units, segments=4)
    units.append(99)
    expected = {
        "num_classes": 3, "in_channels": 3, "segments": 4, "intermediate_activation": "none",
        "residual": True, "pooling": "avg", "fc_units": [16, 8], "head_layers": [],
        "dropout": 0.0, "output_stride": None, "padding": "keras", "bn_eps": 1e-3,
        "bn_momentum": 0.1,
    }  # fmt: skip
    assert model.architecture == {"name": "xception_tiny", "args": expected}
    assert json.loads(json.dumps(model.architecture)) == model.architecture
    tuples = create_model("xception_tiny", fc_units=(16, 8), num_classes=np.int64(3))
    assert json.loads(json.dumps(tuples.architecture)) == tuples.architecture


def test_resolved_arguments_are_those_of_the_network() -> None:
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name, dropout=0.5)
        resolved = resolved_arguments(name, dropout=0.5)
        assert model.architecture["args"] == resolved
        assert list(resolved) == model_entry(name).argument_names()
        assert resolved["num_classes"] == 1000 and resolved["dropout"] == 0.5
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert (norm.eps, norm.momentum) == (resolved["bn_eps"], resolved["bn_momentum"])


def test_resolved_arguments_of_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="no model named 'xcepton'; did you mean 'xception'"):
        resolved_arguments("xcepton")
    with pytest.raises(ValueError, match="no argument 'segment'; did you mean 'segments'"):
        resolved_arguments("xception", segment=1)


def test_a_later_default_changes_no_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model file keeps builds the same network when the registry has moved on."""
    with torch.device("meta"):
        before = create_model("xception_tiny").architecture["args"]
        entry = model_entry("xception_tiny")
        moved = replace(entry, build=partial(Xception, TINY, bn_eps=0.5, padding="torch"))
        monkeypatch.setitem(registry._entries, "xception_tiny", moved)
        assert create_model("xception_tiny").architecture["args"] != before
        assert create_model("xception_tiny", **before).architecture["args"] == before


def test_a_builder_may_have_arguments_without_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*, width: int, num_classes: int, in_channels: int) -> Xception:
        return Xception(replace(TINY, tail=(width,)), num_classes=num_classes)

    entry = model_entry("xception_tiny")
    assert isinstance(entry, ModelEntry)
    monkeypatch.setitem(registry._entries, "wide", replace(entry, name="wide", build=build))
    assert create_model("wide", width=8).architecture["args"] == {
        "width": 8, "num_classes": 1000, "in_channels": 3
    }  # fmt: skip
    with pytest.raises(TypeError, match="width"):
        create_model("wide")


def test_models_do_not_share_their_architecture() -> None:
    with torch.device("meta"):
        one, other = create_model("xception_tiny"), create_model("xception_tiny")
    one.reset_classifier(2)
    assert other.architecture["args"]["num_classes"] == 1000


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'xception' is registered already"):
        register(model_entry("xception"))


def test_grey_input_has_grey_preprocessing() -> None:
    with torch.device("meta"):
        grey = create_model("xception_tiny", in_channels=1).preprocessing
        assert (grey.channels, grey.mean, grey.std) == (1, (0.5,), (0.5,))
        assert create_model("xception_tiny", in_channels=4).preprocessing.channels == 3


def test_grey_is_what_a_network_for_grey_pictures_takes_by_default() -> None:
    with torch.device("meta"):
        grey = create_model("mini_xception")
        rgb = create_model("mini_xception", in_channels=3)
    assert grey.in_channels == grey.architecture["args"]["in_channels"] == 1
    assert grey.preprocessing == model_entry("mini_xception").preprocessing
    assert grey.preprocessing.channels == 1
    assert rgb.in_channels == rgb.preprocessing.channels == 3
    assert rgb.preprocessing == replace(
        grey.preprocessing, channels=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


def test_every_argument_name_can_be_given() -> None:
    for name in list_models():
        names = model_entry(name).argument_names()
        assert {"num_classes", "in_channels", "dropout", "output_stride", "padding"} <= set(names)
        assert "layout" not in names
