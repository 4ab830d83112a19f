"""One process's step: parts of a batch, the bound of gradients, too few pictures."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from xception import create_model
from xception.training import Recipe
from xception.training.runtime import Runtime
from xception.training.step import Step


def made(network: nn.Module, lr: float = 1.0, **fields: object) -> Step:
    recipe = Recipe(device="cpu", **fields)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    return Step(network, optimizer, nn.CrossEntropyLoss(), recipe, Runtime(recipe))


def test_gradients_are_clipped_to_the_norm() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False)
    before = layer.weight.detach().clone()
    made(layer, clip_norm=0.5)(1000 * torch.randn(8, 4), torch.zeros(8, dtype=torch.int64), 8)
    assert float((layer.weight - before).norm().detach()) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("pictures", [8, 7])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(pictures: int) -> None:
    """Without batch statistics, which are each part's own."""
    torch.manual_seed(0)
    whole = create_model("xception_tiny", num_classes=3).double().eval()
    parts = copy.deepcopy(whole)
    x = torch.randn(pictures, 3, 16, 16, dtype=torch.float64)
    y = torch.randint(3, (pictures,))
    first = made(whole)(x, y, pictures)
    second = made(parts, accumulate=3)(x, y, pictures)
    torch.testing.assert_close(first[0], second[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(first[1], second[1])
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_the_loss_is_the_sum_over_pictures() -> None:
    layer = nn.Linear(4, 3)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    expected = nn.functional.cross_entropy(layer(x), y, reduction="sum")
    right = (layer(x).argmax(1) == y).sum()
    losses, correct = made(layer)(x, y, 6)
    torch.testing.assert_close(losses, expected.detach())
    assert torch.equal(correct, right)


def test_one_picture_is_too_few_for_batch_normalization() -> None:
    step = made(nn.Linear(1, 2))
    assert [step.usable(n) for n in (0, 1, 2, 9)] == [0, 0, 2, 9]
