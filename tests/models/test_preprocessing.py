"""The record that travels with every model."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from xception.models import Preprocessing


def test_there_and_back_through_json() -> None:
    record = Preprocessing(
        size=(32, 48), resize="squash", crop_fraction=0.9, interpolation="bicubic",
        mean=(0.1,), std=(0.2,), channels=1,
    )  # fmt: skip
    assert Preprocessing.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert Preprocessing.from_dict({}) == Preprocessing()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"size": [0, 4]}, "preprocessing size must be two integers"),
        ({"size": [4]}, "preprocessing size must be two integers"),
        ({"size": [4, 10**9]}, "preprocessing size must be two integers"),
        ({"size": "big"}, "preprocessing size cannot be 'big'"),
        ({"size": 4}, "preprocessing size cannot be 4"),
        ({"resize": "stretch"}, "preprocessing resize must be one of .*'stretch'"),
        ({"interpolation": "sinc"}, "preprocessing interpolation must be one of .*'sinc'"),
        ({"crop_fraction": 0}, "preprocessing crop_fraction must be above 0"),
        ({"crop_fraction": 1.1}, "preprocessing crop_fraction must be above 0 and at most 1"),
        ({"crop_fraction": float("nan")}, "preprocessing crop_fraction"),
        ({"crop_fraction": None}, "preprocessing crop_fraction cannot be None"),
        ({"channels": 4}, "preprocessing channels must be 1 or 3, got 4"),
        ({"mean": [0.5]}, r"preprocessing mean needs 3 values"),
        ({"std": [0.5, 0.5, 0.0]}, "preprocessing std must be above 0"),
        ({"mean": [float("nan")] * 3}, "preprocessing mean and std must be finite"),
        ({"std": [float("inf")] * 3}, "preprocessing mean and std must be finite"),
        ({"mean": ["a"] * 3}, "preprocessing mean cannot be"),
        ({"sizes": [4, 4]}, r"preprocessing has unknown fields \['sizes'\]"),
    ],
)
def test_wrong_values_name_the_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(values)


def test_it_is_written_once() -> None:
    with pytest.raises(AttributeError):
        Preprocessing().size = (1, 1)  # type: ignore[misc]


def test_its_module_does_not_need_torch() -> None:
    code = (
        "import sys, importlib.util as u; sys.modules['torch'] = None; "
        "import xception, pathlib; folder = pathlib.Path(xception.__file__).parent; "
        "p = str(folder / 'models' / 'preprocessing.py'); "
        "s = u.spec_from_file_location('p', p); m = u.module_from_spec(s); "
        "sys.modules['p'] = m; s.loader.exec_module(m); m.Preprocessing()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
