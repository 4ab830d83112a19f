"""One thread, and Keras where it is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Small inputs gain nothing from many, and lose much when the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def keras() -> Any:
    """Keras 3 on torch, whose tensors it takes and gives."""
    os.environ.setdefault("KERAS_BACKEND", "torch")  # has no effect where Keras is imported already
    module = pytest.importorskip("keras", minversion="3.0")
    if module.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    return module
