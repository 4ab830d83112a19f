"""The content of a file tells what it is; what it does not say is told once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from xception.errors import ModelFileError
from xception.models import Classifier, Preprocessing, create_model
from xception.weights import (
    imagenet_classes,
    load,
    open_model,
    opening,
    published_entry,
    save,
)
from xception.weights.dialects.torch_dialects import to_state_dict
from xception.weights.hub import Resolved

Tiny = Callable[..., Classifier]


@pytest.fixture(scope="module")
def ported() -> Classifier:
    """The paper's network with the settings of the PyTorch ports, nine classes."""
    model = create_model(
        "xception", num_classes=9, padding="torch", bn_eps=1e-5, bn_momentum=0.1
    ).eval()
    assert isinstance(model, Classifier)
    return model


@pytest.mark.parametrize("name", ["a.pth", "a.keras", "model.safetensors", "noname"])
def test_the_name_of_a_file_does_not_matter(
    ported: Classifier, model_path: Path, tmp_path: Path, name: str
) -> None:
    torch.save(to_state_dict(ported, "timm"), tmp_path / "timm")
    save_file(to_state_dict(ported, "cadene"), tmp_path / "cadene")
    shutil.copy(model_path, tmp_path / "own")
    for kind, dialect in (("timm", "timm"), ("cadene", "Cadene"), ("own", "xception model file")):
        (tmp_path / kind).rename(tmp_path / name)
        imported = open_model(tmp_path / name)
        assert imported.report.dialect.startswith(dialect)
        assert not imported.model.training


def test_one_warning_tells_how_much_was_chosen_and_the_log_what(
    ported: Classifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a b.pth"
    torch.save(to_state_dict(ported, "timm"), path)
    with caplog.at_level(logging.INFO):
        load(path)
    warning, *others = caplog.records
    choices = open_model(path).report.choices
    assert warning.levelno == logging.WARNING
    assert warning.getMessage().startswith(f"{path}: {len(choices)} choices were made in reading")
    assert f"`xception info '{path}'` lists what was chosen" in warning.getMessage()
    assert {record.levelno for record in others} == {logging.INFO}
    assert [record.getMessage() for record in others] == [f"{path}: {c}" for c in choices]
    assert any("how pictures are prepared" in choice for choice in choices)


def test_a_file_that_says_everything_is_loaded_in_silence(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        load(model_path)
    assert not caplog.records


def test_where_weights_came_from_goes_into_the_model_file(
    ported: Classifier, tmp_path: Path
) -> None:
    torch.save(to_state_dict(ported, "timm"), tmp_path / "m.pth")
    imported = open_model(tmp_path / "m.pth")
    save(imported.model, tmp_path / "m.safetensors", provenance=imported.provenance)
    assert "timm" in open_model(tmp_path / "m.safetensors").provenance["imported_from"]


def test_nan_weights_of_others_are_refused(ported: Classifier, tmp_path: Path) -> None:
    tensors = {name: value.clone() for name, value in to_state_dict(ported, "timm").items()}
    tensors["fc.bias"][0] = float("nan")
    torch.save(tensors, tmp_path / "m.pth")
    with pytest.raises(ModelFileError, match=r"NaN or infinite weights in fc\.bias"):
        load(tmp_path / "m.pth")


@pytest.fixture
def from_elsewhere(
    ported: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """from_elsewhere(**fields of Resolved): every name is answered by the same downloaded file."""

    def answer(**fields: Any) -> None:
        path = tmp_path / "downloaded.pth"
        torch.save(to_state_dict(ported, "timm"), path)
        resolved = Resolved(path=path, address="hf-hub:o/n", **fields)
        monkeypatch.setattr("xception.weights.hub.resolve", lambda source: resolved)

    return answer


def test_what_the_publisher_says_replaces_choices(from_elsewhere: Callable[..., None]) -> None:
    entry = published_entry("legacy_xception.tf_in1k")
    from_elsewhere(published=entry)
    imported = open_model("legacy_xception.tf_in1k")
    assert imported.report.choices == ()
    assert imported.model.preprocessing == entry.preprocessing
    assert imported.model.class_names is None  # nine classes are not ImageNet's
    assert imported.provenance["licence"] == entry.licence


def test_imagenet_names_come_with_a_thousand_classes(
    from_elsewhere: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = create_model("xception", padding="torch", bn_eps=1e-5, bn_momentum=0.1)
    assert isinstance(whole, Classifier)
    torch.save(to_state_dict(whole, "timm"), tmp_path / "whole.pth")
    entry = published_entry("legacy_xception.tf_in1k")
    resolved = Resolved(path=tmp_path / "whole.pth", address="x", published=entry)
    monkeypatch.setattr("xception.weights.hub.resolve", lambda source: resolved)
    assert load("legacy_xception.tf_in1k").class_names == list(imagenet_classes())


CONFIG = {
    "architecture": "legacy_xception",
    "pretrained_cfg": {
        "input_size": [3, 200, 180],
        "crop_pct": 0.5,
        "interpolation": "bicubic",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    },
}


def test_timms_config_on_the_hub_is_taken(from_elsewhere: Callable[..., None]) -> None:
    names = [f"kind {index}" for index in range(9)]
    from_elsewhere(config={**CONFIG, "label_names": names})
    model = load("hf-hub:o/n")
    assert model.class_names == names
    assert model.preprocessing == Preprocessing(
        size=(200, 180),
        crop_fraction=0.5,
        interpolation="bicubic",
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": [3, -5, 180]},
        {"input_size": "large"},
        {"std": [0, 0, 0]},
        {"interpolation": "magic"},
        {"crop_mode": "spiral"},
        {"label_names": ["one"]},
    ],
)
def test_a_config_that_cannot_be_is_refused(
    from_elsewhere: Callable[..., None], change: dict[str, Any]
) -> None:
    from_elsewhere(config={"pretrained_cfg": {**CONFIG["pretrained_cfg"], **change}})  # type: ignore[dict-item]
    with pytest.raises(ModelFileError, match=r"config\.json that cannot be used"):
        load("hf-hub:o/n")


def test_another_network_than_published_is_refused(from_elsewhere: Callable[..., None]) -> None:
    from_elsewhere(published=published_entry("xception41.tf_in1k"))
    with pytest.raises(ModelFileError, match="is xception, not xception41 as published"):
        load("xception41.tf_in1k")


def test_a_file_goes_before_a_name(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_path, "xception41.tf_in1k")
    assert open_model("xception41.tf_in1k").report.dialect == opening.OWN_DIALECT
