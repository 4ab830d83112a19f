"""A classifier that says exactly what a test wants, and pictures that ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from xception.data.samples import ArraySamples
from xception.models import Classifier, Preprocessing, create_model
from xception.models.head import ClassifierHead


class TableClassifier(Classifier):
    """The logits of a picture are the row of a table that its red value (0..255) names."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(table.shape[1], in_channels=3, minimum_size=1)
        self.table = torch.nn.Parameter(table)
        self.head = ClassifierHead(1, 1)
        self.preprocessing = Preprocessing(size=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.seen: list[int] = []  # batch sizes

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        assert x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append(len(x))
        return self.table[(x[:, 0].mean((1, 2)) * 255).round().long()]


@pytest.fixture
def table_classifier() -> Callable[..., TableClassifier]:
    """table_classifier(rows of logits, class names) -> a classifier in training mode."""

    def make(rows: Sequence[Sequence[float]], names: list[str] | None = None) -> TableClassifier:
        model = TableClassifier(torch.tensor(rows))
        model.class_names = names
        return model

    return make


def red(value: int) -> np.ndarray:
    """A uniform picture, uint8 (6, 5, 3), whose red value is `value`."""
    picture = np.zeros((6, 5, 3), dtype=np.uint8)
    picture[:, :, 0] = value
    return picture


@pytest.fixture
def red_picture() -> Callable[[int], np.ndarray]:
    return red


@pytest.fixture
def red_samples() -> Callable[[Sequence[int]], ArraySamples]:
    """red_samples(labels) -> picture i has the red value i."""

    def make(labels: Sequence[int]) -> ArraySamples:
        pictures = np.stack([red(i) for i in range(len(labels))])
        return ArraySamples(pictures, labels, [f"red/{i}" for i in range(len(labels))])

    return make


@pytest.fixture(autouse=True, scope="session")
def exports_in_a_folder_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XCEPTION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny() -> Classifier:
    torch.manual_seed(3)
    model = create_model("xception_tiny", num_classes=4)
    assert isinstance(model, Classifier)
    return model.eval()


@pytest.fixture(scope="session")
def trained() -> Classifier:
    """Random weights and statistics under which no layer is the identity and nothing grows."""
    torch.manual_seed(0)
    model = create_model("xception_tiny", num_classes=7)
    assert isinstance(model, Classifier)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.class_names = list("abcdefg")
    return model.eval()
