"""What is missing is named, with the command that brings it."""

from __future__ import annotations

import pytest

from xception.errors import XceptionError
from xception.export.requirements import is_installed, require


def test_what_is_there_is_enough() -> None:
    require("a picture", "torch", "numpy")
    assert is_installed("torch") and not is_installed("no_such_package")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(XceptionError) as caught:
        require("an ONNX file", "torch", "no_such", "nor_this", "nor_that")
    assert str(caught.value) == (
        'an ONNX file needs no_such, nor_this and nor_that: pip install "xception[export]"'
    )
    with pytest.raises(XceptionError, match="needs no_such: pip"):
        require("an ONNX file", "torch", "no_such")
