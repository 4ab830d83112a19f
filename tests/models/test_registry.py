"""The registry: names, arguments, and errors that propose the nearest one."""

from __future__ import annotations

import json

import pytest
import torch

from xception.models import create_model, list_models, model_entry, register


def test_names() -> None:
    assert list_models() == [
        "xception", "xception41", "xception65", "xception71", "xception41p", "xception65p",
        "xception_tiny", "xception_small",
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


def test_architecture_is_a_json_copy_of_what_was_given() -> None:
    units = [16, 8]
    model = create_model("xception_tiny", num_classes=3, fc_units=units, segments=4)
    units.append(99)
    expected = {"num_classes": 3, "in_channels": 3, "fc_units": [16, 8], "segments": 4}
    assert model.architecture == {"name": "xception_tiny", "args": expected}
    assert json.loads(json.dumps(model.architecture)) == model.architecture
    tuples = create_model("xception_tiny", fc_units=(16, 8))
    assert json.loads(json.dumps(tuples.architecture)) == tuples.architecture


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


def test_every_argument_name_can_be_given() -> None:
    for name in list_models():
        names = model_entry(name).argument_names()
        assert {"num_classes", "in_channels", "dropout", "output_stride", "padding"} <= set(names)
        assert "layout" not in names
