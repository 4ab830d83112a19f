"""Features of pictures are the network's own, in order, whatever the batches."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xception
from xception.data.decode import decode_picture
from xception.data.picture_tensor import preprocess
from xception.errors import ModelFileError, PictureError, UsageError
from xception.inference import embed, embed_iter
from xception.models import Classifier, Preprocessing, create_model
from xception.weights import save


def randomized(model: Any) -> Classifier:
    """The model with batch norm statistics that a picture shows through, in eval mode."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def network() -> Classifier:
    """One whose head has a fully connected layer."""
    return randomized(create_model("xception_tiny", num_classes=4, fc_units=(24,), dropout=0.5))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 50 + i, 3), dtype=np.uint8) for i in range(7)]


def preprocessed(model: Classifier, pictures: list[np.ndarray]) -> Tensor:
    return torch.stack([preprocess(decode_picture(p), model.preprocessing) for p in pictures])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_they_are_what_enters_the_last_layer(
    network: Classifier, pictures: list[np.ndarray], batch_size: int
) -> None:
    with torch.no_grad():
        maps = network.forward_features(preprocessed(network, pictures))
        expected = network.forward_head(maps, pre_logits=True)
    features = embed(network, pictures, batch_size=batch_size)
    assert features.shape == (7, 24) and features.dtype == torch.float32
    assert torch.allclose(features, expected, rtol=1e-6, atol=1e-6)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3  # the pictures do differ
    with torch.no_grad():  # the last layer makes the model's logits of them
        logits = network(preprocessed(network, pictures))
        assert torch.allclose(network.get_classifier()(features), logits, atol=1e-5)


def test_pool_is_the_mean_of_the_feature_map(
    network: Classifier, pictures: list[np.ndarray]
) -> None:
    with torch.no_grad():
        expected = network.forward_features(preprocessed(network, pictures)).mean((2, 3))
    features = embed(network, pictures, layer="pool", batch_size=4)
    assert features.shape == (7, network.num_features)
    assert torch.allclose(features, expected, rtol=1e-6, atol=1e-6)


def test_the_layers_are_one_where_the_head_has_none(
    tiny: Classifier, pictures: list[np.ndarray]
) -> None:
    assert torch.equal(embed(tiny, pictures), embed(tiny, pictures, layer="pool"))


def test_pool_is_the_heads_own_pooling(pictures: list[np.ndarray]) -> None:
    model = randomized(create_model("xception_tiny", pooling="max", head_layers=("linear 5",)))
    with torch.no_grad():
        expected = model.forward_features(preprocessed(model, pictures)).amax((2, 3))
    assert torch.allclose(embed(model, pictures, layer="pool"), expected, rtol=1e-6, atol=1e-6)
    assert embed(model, pictures).shape == (7, 5)


def test_a_head_whose_last_layer_is_a_convolution(pictures: list[np.ndarray]) -> None:
    """Nothing but the average of the feature map is there to be had, for both layers."""
    model = randomized(create_model("mini_xception", num_classes=3))
    with torch.no_grad():
        expected = model.forward_features(preprocessed(model, pictures)).mean((2, 3))
    for layer in ("pre_logits", "pool"):
        features = embed(model, pictures, layer=layer)  # type: ignore[arg-type]
        assert torch.allclose(features, expected, rtol=1e-6, atol=1e-6)


def test_the_models_preprocessing_is_used(pictures: list[np.ndarray]) -> None:
    model = randomized(create_model("xception_tiny", num_classes=2, in_channels=1))
    model.preprocessing = Preprocessing(size=(40, 24), channels=1, mean=(0.3,), std=(0.2,))
    x = preprocessed(model, pictures[:2])
    assert x.shape == (2, 1, 40, 24)
    with torch.no_grad():
        expected = model.forward_features(x).mean((2, 3))
    assert torch.allclose(embed(model, pictures[:2]), expected, rtol=1e-6, atol=1e-6)


def test_a_network_without_classes_has_features(pictures: list[np.ndarray]) -> None:
    model = randomized(create_model("xception_tiny", num_classes=0))
    with torch.no_grad():
        expected = model(preprocessed(model, pictures))
    assert torch.allclose(embed(model, pictures), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_precision_give_float32(
    dtype: torch.dtype, pictures: list[np.ndarray]
) -> None:
    model = create_model("xception_tiny", num_classes=2).to(dtype)
    assert embed(model, pictures[0]).dtype == torch.float32


def test_files_and_run_folders(
    network: Classifier, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    save(network, tmp_path / "model.safetensors")
    expected = embed(network, pictures)
    for source in (tmp_path, str(tmp_path / "model.safetensors")):
        assert torch.allclose(xception.embed(source, pictures, device="cpu"), expected, atol=1e-6)


def test_one_after_the_other_with_errors_in_place(
    network: Classifier, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    expected = embed(network, pictures[:3])
    file = io.BytesIO()
    Image.fromarray(pictures[2]).save(file, "PNG")
    (tmp_path / "cut.png").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    mixed = [tmp_path / "none.png", *pictures[:2], tmp_path / "cut.png", file.getvalue()]
    found = list(embed_iter(network, mixed, batch_size=2))
    assert [embedding.name for embedding in found] == [
        str(tmp_path / "none.png"),
        "picture 2",
        "picture 3",
        str(tmp_path / "cut.png"),
        "picture 5",
    ]
    assert [embedding.features is None for embedding in found] == [True, False, False, True, False]
    assert found[0].error == "does not exist" and "truncated" in str(found[3].error)
    good = [embedding for embedding in found if embedding.features is not None]
    assert all(embedding.error is None for embedding in good)
    assert torch.allclose(torch.stack([e.features for e in good]), expected, atol=1e-6)
    with pytest.raises(PictureError, match="does not exist"):
        embed(network, mixed)


def test_features_that_overflow_are_an_error_of_that_picture(
    pictures: list[np.ndarray],
) -> None:
    model = create_model("xception_tiny", num_classes=2, fc_units=(4,))
    torch.nn.init.constant_(model.head.fc_layers[0].bias, float("inf"))
    (only,) = embed_iter(model, pictures[0])
    assert only.features is None and "no finite numbers" in str(only.error)


def test_an_endless_stream_can_be_left(network: Classifier, pictures: list[np.ndarray]) -> None:
    def endless() -> Any:
        while True:
            yield from pictures

    found = list(islice(embed_iter(network, endless(), batch_size=2), 9))
    assert torch.allclose(found[0].features, found[7].features, atol=1e-6)


def test_what_comes_out_can_be_trained_on(network: Classifier, pictures: list[np.ndarray]) -> None:
    network.train()
    features = embed(network, pictures[:2])
    assert network.training and torch.is_grad_enabled()
    network.eval()
    probe = torch.nn.Linear(features.shape[1], 2)
    probe(features).sum().backward()  # no tensor of inference mode, of which autograd keeps none
    (first,) = embed_iter(network, pictures[0])
    probe(first.features).sum().backward()


def test_nothing_gives_no_rows(network: Classifier) -> None:
    assert embed(network, []).shape == (0, 24)
    assert embed(network, [], layer="pool").shape == (0, network.num_features)
    assert list(embed_iter(network, [])) == []


def test_wrong_calls_are_told_at_once(network: Classifier, tmp_path: Path) -> None:
    """Not when the first picture is asked for."""
    extractor = create_model("xception_tiny", features_only=True)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: embed_iter(network, [], layer="logits"), "pre_logits, pool, got 'logits'"),  # type: ignore[arg-type]
        (lambda: embed_iter(network, [], batch_size=0), "batch_size must be at least 1"),
        (lambda: embed_iter(network, [], device="abacus"), "device 'abacus'"),
        (lambda: embed_iter(extractor, []), "a FeatureExtractor cannot .* a whole network"),  # type: ignore[arg-type]
        (lambda: embed_iter(create_model("xception_tiny", in_channels=4), []), "takes 4 channels"),  # type: ignore[arg-type]
    ]
    for call, finding in calls:
        with pytest.raises(UsageError, match=finding):
            call()
    with pytest.raises(ModelFileError, match="does not exist"):
        embed_iter(tmp_path / "none", [])
