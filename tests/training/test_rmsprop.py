"""TensorFlow's RMSprop against its equations in numpy, and against timm's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xception.training.rmsprop import TensorFlowRMSprop

SETTINGS = [
    {"lr": 0.01},
    {"lr": 0.001, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.5, "decay": 0.99, "eps": 1.0},
    {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
]


def gradients(shape: tuple[int, ...], steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = [
        torch.randn(shape, generator=generator, dtype=torch.float64) * 10**k
        for k in (-3, 0, 2)
        for _ in range(steps // 3)
    ]
    found[1].zero_()
    return found


def by_definition(
    start: np.ndarray,
    gradients: list[np.ndarray],
    lr: float,
    decay: float = 0.9,
    momentum: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> np.ndarray:
    w, square, m = start.copy(), np.ones_like(start), np.zeros_like(start)
    for g in gradients:
        g = g + weight_decay * w
        square = decay * square + (1 - decay) * g * g
        m = momentum * m + lr * g / np.sqrt(square + eps)
        w = w - m
    return w


@pytest.mark.parametrize("settings", SETTINGS)
def test_is_its_definition(settings: dict[str, float]) -> None:
    weight = nn.Parameter(torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4))
    start = weight.detach().numpy().copy()
    optimizer = TensorFlowRMSprop([weight], **settings)  # type: ignore[arg-type]
    steps = gradients((3, 4), 30)
    for gradient in steps:
        weight.grad = gradient.clone()
        optimizer.step()
    expected = by_definition(start, [g.numpy() for g in steps], **settings)
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
def test_is_timms(settings: dict[str, Any]) -> None:
    optim = pytest.importorskip("timm.optim")
    weights = [nn.Parameter(torch.linspace(-2, 2, 12, dtype=torch.float64)) for _ in range(2)]
    ours = TensorFlowRMSprop([weights[0]], **settings)
    renamed = {"alpha" if name == "decay" else name: value for name, value in settings.items()}
    theirs = optim.RMSpropTF([weights[1]], **renamed)
    for gradient in gradients((12,), 30):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-10, atol=1e-10)


def test_goes_on_from_its_state_bit_for_bit() -> None:
    def made() -> tuple[nn.Parameter, TensorFlowRMSprop]:
        weight = nn.Parameter(torch.ones(7))
        return weight, TensorFlowRMSprop([weight], 0.1, momentum=0.9)

    steps = [g.float() for g in gradients((7,), 12)]
    whole, optimizer = made()
    for i, gradient in enumerate(steps):
        if i == 5:
            kept = copy.deepcopy((whole.detach(), optimizer.state_dict()))
        whole.grad = gradient.clone()
        optimizer.step()
    weight, optimizer = made()
    weight.data.copy_(kept[0])
    optimizer.load_state_dict(kept[1])
    for gradient in steps[5:]:
        weight.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(weight, whole)


def test_parameters_without_a_gradient_stay() -> None:
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    optimizer = TensorFlowRMSprop(weights, 0.1)
    weights[0].grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(weights[1], torch.ones(2)) and weights[0][0] < 1


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"lr": -1}, "lr"), ({"lr": 1, "decay": 1.0}, "decay"), ({"lr": 1, "eps": -1}, "eps"),
     ({"lr": 1, "momentum": -0.1}, "momentum"), ({"lr": float("nan")}, "lr")],
)  # fmt: skip
def test_bad_values_are_named(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TensorFlowRMSprop([nn.Parameter(torch.ones(1))], **settings)  # type: ignore[arg-type]
