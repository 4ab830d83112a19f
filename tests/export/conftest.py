"""Networks as training leaves them, exported once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.models import Classifier, create_model

Make = Callable[..., Classifier]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small inputs gain nothing from many, and lose much when the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(name: str = "xception_tiny", **arguments: Any) -> Classifier:
    """Random weights and statistics under which no layer is the identity and nothing grows."""
    torch.manual_seed(0)
    model = create_model(name, **{"num_classes": 7, **arguments})
    assert isinstance(model, Classifier)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="session")
def make_trained() -> Make:
    return trained


def smallest(model: Classifier) -> tuple[int, int]:
    """A size that is quick, and not square."""
    return model.minimum_size, model.minimum_size + 9


@pytest.fixture(scope="session")
def small_size() -> Callable[[Classifier], tuple[int, int]]:
    return smallest


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Classifier, Path]]:
    """exported(name) -> the network, and its ONNX file of any batch at a small size."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from xception.export import to_onnx

    folder = tmp_path_factory.mktemp("onnx")
    made: dict[str, tuple[Classifier, Path]] = {}

    def export(name: str) -> tuple[Classifier, Path]:
        if name not in made:
            model, path = trained(name), folder / f"{name}.onnx"
            to_onnx(model, path, size=smallest(model))
            made[name] = model, path
        return made[name]

    return export


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-4 of the largest number."""
    assert found.shape == expected.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.fixture(scope="session")
def assert_agrees() -> Callable[[Tensor, Tensor], None]:
    return close
