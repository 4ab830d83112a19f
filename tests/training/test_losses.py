from __future__ import annotations

import pytest
import torch

from xception.training import Recipe
from xception.training.losses import balanced_weights, make_loss

LABELS = [0, 0, 0, 0, 0, 0, 2, 2, 3]


def test_balanced_weights_by_hand() -> None:
    """Nine pictures of three classes that there are: 9 / (3 n) for each."""
    assert balanced_weights(LABELS, 4).tolist() == [0.5, 0.0, 1.5, 3.0]
    mean = sum(float(balanced_weights(LABELS, 4)[label]) for label in LABELS) / len(LABELS)
    assert mean == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_weights_it_is_torchs(smoothing: float) -> None:
    logits, labels = torch.randn(9, 4), torch.tensor(LABELS)
    loss = make_loss(Recipe(label_smoothing=smoothing), LABELS, 4)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)
    assert torch.equal(loss(logits, labels), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_parts_of_a_batch_add_up_to_the_whole(smoothing: float) -> None:
    logits, labels = torch.randn(9, 4, dtype=torch.float64), torch.tensor(LABELS)
    loss = make_loss(Recipe(class_weights="balanced", label_smoothing=smoothing), LABELS, 4)
    parts = (loss(logits[:7], labels[:7]) * 7 + loss(logits[7:], labels[7:]) * 2) / 9
    torch.testing.assert_close(loss(logits, labels), parts)
    by_hand = sum(
        float(balanced_weights(LABELS, 4)[label])
        * torch.nn.functional.cross_entropy(
            logits[i : i + 1], labels[i : i + 1], label_smoothing=smoothing
        )
        for i, label in enumerate(LABELS)
    )
    torch.testing.assert_close(loss(logits, labels), torch.as_tensor(by_hand) / 9)
