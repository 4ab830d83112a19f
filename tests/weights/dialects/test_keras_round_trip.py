"""To Keras and back: the same bits, and the same network where the file notes which it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from xception.models import Classifier, create_model
from xception.weights.description import METADATA_KEY, ModelDescription
from xception.weights.dialects.keras_export import to_keras
from xception.weights.dialects.keras_import import recognise
from xception.weights.dialects.keras_writer import write_keras_archive, write_keras_weights
from xception.weights.files.keras_file import read_keras_archive, read_keras_h5

pytest.importorskip("h5py")

PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("xception_tiny", {"num_classes": 3}),
    ("xception_tiny", {"num_classes": 0, "pooling": "max"}),
    ("xception_tiny", {"num_classes": 3, "fc_units": [7, 6], "dropout": 0.3}),
    ("xception_small", {"num_classes": 3, "bn_eps": 1e-5, "bn_momentum": 0.1}),
    ("xception_small", {"num_classes": 2, "head_layers": ["batchnorm 0.001 0.01", "gelu"]}),
    ("mini_xception", {"num_classes": 7}),
    ("mini_xception", {"num_classes": 0, "dropout": 0.25}),
    ("xception41p", {"num_classes": 3}),
    ("xception41", {"num_classes": 3, "dropout": 0.5}),
]
NOTED: list[tuple[str, dict[str, Any]]] = [
    ("xception_tiny", {"num_classes": 1}),
    ("xception_tiny", {"num_classes": 3, "residual": False}),
    ("xception_tiny", {"num_classes": 3, "segments": 4}),
    ("xception_tiny", {"num_classes": 3, "segments": 1, "intermediate_activation": "relu"}),
    ("xception_tiny", {"num_classes": 3, "intermediate_activation": "elu"}),
    ("xception_tiny", {"num_classes": 3, "head_layers": ["linear 7", "relu", "dropout 0.3"]}),
    ("mini_xception", {"num_classes": 3, "residual": False}),
    ("xception41", {"num_classes": 3, "output_stride": 16, "padding": "keras"}),
]


def made(name: str, arguments: dict[str, Any]) -> Classifier:
    torch.manual_seed(1)
    model = create_model(name, **arguments)
    assert isinstance(model, Classifier)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif key.endswith("running_mean"):
            value.normal_()
    return model.eval()


def archived(model: Classifier, path: Path, *, note: str | None, softmax: bool = True) -> Any:
    notes = {} if note is None else {METADATA_KEY: json.loads(note)}
    with path.open("wb") as file:
        write_keras_archive(file, to_keras(model, softmax=softmax), "model", notes)
    with path.open("rb") as file:
        return read_keras_archive(file, path.stat().st_size)


def assert_equal(model: Classifier, other: Classifier) -> None:
    wanted, found = model.state_dict(), other.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("name, arguments", PLAIN)
def test_the_layers_alone_tell_the_network(
    name: str, arguments: dict[str, Any], softmax: bool, tmp_path: Path
) -> None:
    model = made(name, arguments)
    back = recognise(archived(model, tmp_path / "m.keras", note=None, softmax=softmax)).model
    assert back.architecture == model.architecture
    assert_equal(model, back)


@pytest.mark.parametrize("name, arguments", NOTED)
def test_a_note_tells_what_layers_leave_open(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    model = made(name, arguments)
    note = ModelDescription.of(model, {}).to_json()
    back = recognise(archived(model, tmp_path / "m.keras", note=note)).model
    assert back.architecture == model.architecture
    assert_equal(model, back)


BAD_NOTES = {
    "no note at all": '{"xception": 3}',
    "bad arguments": '{"format_version": 1, "class_names": null, "preprocessing": {}, '
    '"architecture": {"name": "xception_tiny", "args": {"num_classes": 3, "name": "a"}}}',
}


@pytest.mark.parametrize("note", ["of another network", "of other arguments", *BAD_NOTES])
def test_a_note_that_does_not_fit_is_passed_over(note: str, tmp_path: Path) -> None:
    model = made("xception_tiny", {"num_classes": 3})
    others = {
        "of another network": made("mini_xception", {"num_classes": 3}),
        "of other arguments": made("xception_tiny", {"num_classes": 4, "residual": False}),
    }
    text = BAD_NOTES.get(note) or ModelDescription.of(others[note], {}).to_json()
    back = recognise(archived(model, tmp_path / "m.keras", note=text)).model
    assert back.architecture == model.architecture
    assert_equal(model, back)


@pytest.mark.parametrize("name", ["xception_tiny", "xception_small"])
def test_weights_alone(name: str, tmp_path: Path) -> None:
    model = made(name, {"num_classes": 3, "fc_units": [5], "bn_momentum": 0.01})
    path = tmp_path / "m.weights.h5"
    with path.open("wb") as file:
        write_keras_weights(file, to_keras(model))
    with path.open("rb") as file:
        back = recognise(read_keras_h5(file, path.stat().st_size)).model
    assert back.architecture == model.architecture
    assert_equal(model, back)
