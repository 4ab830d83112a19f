"""Every name that a package promises is there."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    "package",
    [
        "",
        ".ops",
        ".nn",
        ".models",
        ".fusion",
        ".weights",
        ".data",
        ".export",
        ".report",
        ".training",
        ".inference",
    ],
)
def test_promised_names(package):
    module = importlib.import_module(f"xception{package}")
    for name in module.__all__:
        assert getattr(module, name) is not None
