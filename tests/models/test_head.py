"""The classifier on top of the feature map."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from xception.models.head import ClassifierHead


def test_pool_fully_connected_dropout_classes_in_that_order() -> None:
    torch.manual_seed(0)
    head = ClassifierHead(6, 4, fc_units=(5, 3), dropout=0.5).eval()
    x = torch.randn(2, 6, 3, 4)
    hidden = x.mean((2, 3))
    for layer in (head.fc_layers[0], head.fc_layers[2]):
        hidden = F.relu(layer(hidden))
    torch.testing.assert_close(head(x, pre_logits=True), hidden)
    torch.testing.assert_close(head(x), head.fc(hidden))
    torch.manual_seed(1)
    dropped = head.train()(x, pre_logits=True)
    torch.manual_seed(1)
    torch.testing.assert_close(dropped, F.dropout(hidden, 0.5))


def test_state_dict_names() -> None:
    assert list(ClassifierHead(6, 4).state_dict()) == ["fc.weight", "fc.bias"]
    assert list(ClassifierHead(6, 0).state_dict()) == []


def test_reset_keeps_the_fully_connected_layers() -> None:
    head = ClassifierHead(6, 4, fc_units=(5,))
    kept = head.fc_layers[0].weight
    head.reset(9)
    assert head.fc_layers[0].weight is kept and head.fc.weight.shape == (9, 5)
