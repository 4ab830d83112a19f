"""`create_model` with the weights of a model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import xception
from xception import models
from xception.errors import ModelFileError, UsageError
from xception.models import Classifier, FeatureExtractor, Preprocessing
from xception.weights import create_model, load, save

Make = Callable[..., Classifier]


def test_the_top_level_name_is_this_one() -> None:
    assert xception.create_model is create_model


def test_without_a_file_it_is_the_registrys() -> None:
    torch.manual_seed(3)
    one = create_model("xception_tiny", segments=4)
    torch.manual_seed(3)
    other = models.create_model("xception_tiny", segments=4)
    assert one.architecture == other.architecture and one.num_classes == 1000
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert isinstance(create_model("xception_tiny", features_only=True), FeatureExtractor)
    assert create_model("xception_tiny", in_channels=1).in_channels == 1


def test_everything_comes_from_the_file(tiny: Make, tmp_path: Path) -> None:
    source = tiny(padding="torch", fc_units=(8,), in_channels=1)
    source.class_names = ["bag", "coat", "shirt"]
    source.preprocessing = Preprocessing(size=(28, 28), channels=1, mean=(0.1,), std=(0.2,))
    save(source, tmp_path / "model.safetensors")
    for pretrained in (tmp_path, str(tmp_path / "model.safetensors")):  # a run folder, a file
        model = create_model("xception_tiny", pretrained=pretrained)
        assert isinstance(model, Classifier) and model.training
        assert model.architecture == source.architecture
        assert model.class_names == source.class_names
        assert model.preprocessing == source.preprocessing
        x = torch.randn(2, 1, 28, 28)
        assert torch.equal(model.eval()(x), source(x))


def test_another_number_of_classes_starts_the_last_layer_fresh(model_path: Path) -> None:
    source = load(model_path)
    model = create_model("xception_tiny", num_classes=5, dropout=0.5, pretrained=model_path)
    assert model.num_classes == 5 and model.class_names is None
    assert model.head.fc.weight.shape == (5, 256)
    assert model.head.dropout.p == 0.5
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval().forward_features(x), source.forward_features(x))
    save(model, model_path)
    assert load(model_path).num_classes == 5


def test_feature_maps_of_a_file(model_path: Path) -> None:
    source = load(model_path)
    extractor = create_model(
        "xception_tiny", features_only=True, out_indices=[-1], pretrained=model_path
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    (last,) = extractor(x)
    assert torch.equal(last, source.forward_features(x))
    assert extractor.preprocessing == source.preprocessing


def test_arguments_that_contradict_the_file(model_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.safetensors holds .* set padding='keras'"):
        create_model("xception_tiny", padding="torch", pretrained=model_path)
    with pytest.raises(UsageError, match="in_channels=3"):
        create_model("xception_tiny", in_channels=1, pretrained=model_path)
    with pytest.raises(UsageError, match="weights of xception_tiny, which do not fit xception_sm"):
        create_model("xception_small", pretrained=model_path)


def test_misspelt_names_are_errors_with_a_file_too(model_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'xception_tiny'"):
        create_model("xception_tinny", pretrained=model_path)
    with pytest.raises(ValueError, match="did you mean 'padding'"):
        create_model("xception_tiny", paddding="keras", pretrained=model_path)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        create_model("xception_tiny", pretrained=tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match=r"pretrained must be a file of weights, .* got True"):
        create_model("xception_tiny", pretrained=True)  # type: ignore[arg-type]
