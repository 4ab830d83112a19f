"""A small classifier and its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xception.models import Classifier, create_model
from xception.weights import save


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Classifier]:
    """tiny(**arguments) -> a classifier of three classes with changed buffers."""

    def make(**arguments: Any) -> Classifier:
        torch.manual_seed(7)
        model = create_model("xception_tiny", **{"num_classes": 3, **arguments})
        assert isinstance(model, Classifier)
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_()
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
        return model.eval()

    return make


@pytest.fixture
def model(tiny: Callable[..., Classifier]) -> Classifier:
    made = tiny()
    made.class_names = ["bag", "coat", "shirt"]
    return made


@pytest.fixture
def model_path(model: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(model, path, provenance={"data": "pictures/"})
    return path
