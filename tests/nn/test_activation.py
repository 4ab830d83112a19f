"""The activations between depthwise and pointwise, by name."""

from __future__ import annotations

import pytest
from torch import nn

from xception.nn import intermediate_activation_layer


@pytest.mark.parametrize("name, kind", [("none", nn.Identity), ("relu", nn.ReLU), ("elu", nn.ELU)])
def test_names(name: str, kind: type[nn.Module]) -> None:
    assert type(intermediate_activation_layer(name)) is kind  # type: ignore[arg-type]


def test_another_name_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"intermediate_activation must be one of .*'gelu'"):
        intermediate_activation_layer("gelu")  # type: ignore[arg-type]
