"""The copy without numbers."""

from __future__ import annotations

import torch
from torch import nn

from xception.models import create_model
from xception.models.meta_twin import meta_picture, meta_twin


def test_a_twin_holds_no_data_and_shares_nothing() -> None:
    model = create_model("xception_tiny", num_classes=3)
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    twin = meta_twin(model)
    assert all(t.is_meta for t in twin.state_dict().values())
    assert [(n, t.shape, t.dtype) for n, t in twin.state_dict().items()] == [
        (n, t.shape, t.dtype) for n, t in model.state_dict().items()
    ]
    assert not twin.training and model.training
    assert twin(meta_picture(model)).shape == (1, 3)
    assert not any(t.is_meta for t in model.state_dict().values())


def test_a_picture_takes_what_the_model_states() -> None:
    grey = create_model("xception_tiny", in_channels=1).double()
    picture = meta_picture(grey)
    assert picture.shape == (1, 1, 32, 32) and picture.dtype == torch.float64
    assert meta_picture(grey, 20).shape == (1, 1, 20, 20)
    assert meta_picture(nn.Conv2d(5, 2, 1), (4, 6)).shape == (1, 5, 4, 6)
    assert meta_picture(nn.ReLU(), (4, 6), in_channels=2).shape == (1, 2, 4, 6)
