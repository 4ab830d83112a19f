"""What comes out, and how wide it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xception.errors import UsageError
from xception.export.outputs import NetworkOutput


@pytest.mark.parametrize("name", ["xception_tiny", "xception41", "mini_xception"])
@pytest.mark.parametrize("num_classes", [7, 0])
def test_widths_are_those_of_what_comes_out(
    name: str, num_classes: int, make_trained: Any, small_size: Any
) -> None:
    model = make_trained(name, num_classes=num_classes)
    x = torch.randn(2, model.in_channels, *small_size(model))
    with torch.no_grad():
        rows = {o: NetworkOutput(model, o)(x) for o in ("logits", "pre_logits", "pool")}
        assert torch.equal(rows["logits"], model(x))
        maps = model.forward_features(x)
        assert torch.equal(rows["pre_logits"], model.forward_head(maps, pre_logits=True))
        torch.testing.assert_close(rows["pool"], maps.mean((2, 3)))
    for output, found in rows.items():
        assert found.shape == (2, NetworkOutput(model, output).width)


def test_an_unknown_output_is_refused(make_trained: Any) -> None:
    with pytest.raises(UsageError, match="logits, pre_logits, pool, got 'maps'"):
        NetworkOutput(make_trained(), "maps")  # type: ignore[arg-type]
