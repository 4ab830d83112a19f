"""Muon against its definition, and its other half against torch's AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xception.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (12, 40), (40, 12), (1, 9)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    result = orthogonalized(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    along = u.T @ result @ v.T  # diagonal where the directions are the same
    off = along - torch.diag(torch.diagonal(along))
    assert off.abs().max() < 1e-3


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_what_is_no_matrix_is_trained_as_by_adamw() -> None:
    torch.manual_seed(1)
    start = torch.randn(5)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.03, "weight_decay": 0.1}
    muon = Muon([{"params": [ours], **settings}], lr=0.03)
    adamw = torch.optim.AdamW([theirs], **settings)
    for _ in range(20):
        grad = torch.randn(5)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)


def test_the_first_step_of_a_convolution_is_the_definition() -> None:
    torch.manual_seed(2)
    weight = nn.Parameter(torch.randn(6, 4, 3, 3))
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    Muon([{"params": [weight], "matrix": True}], lr=0.1, weight_decay=0.5).step()
    direction = orthogonalized(weight.grad.flatten(1))  # of any positive multiple: the same
    expected = before * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 36**0.5 * direction.view_as(before)
    torch.testing.assert_close(weight.detach(), expected, atol=1e-5, rtol=1e-5)


def test_its_state_goes_through_a_checkpoint() -> None:
    torch.manual_seed(3)

    def made() -> tuple[nn.Sequential, Muon]:
        torch.manual_seed(4)
        net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
        matrices = [p for p in net.parameters() if p.dim() > 1]
        others = [p for p in net.parameters() if p.dim() == 1]
        groups = [{"params": matrices, "matrix": True}, {"params": others}]
        return net, Muon(groups, lr=0.05)

    def go(net: nn.Sequential, optimizer: Muon, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            net(torch.randn(7, 4)).square().mean().backward()
            optimizer.step()

    whole, optimizer = made()
    go(whole, optimizer, range(6))
    first, optimizer = made()
    go(first, optimizer, range(3))
    second, other = made()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(optimizer.state_dict())
    go(second, other, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters()):
        assert torch.equal(a, b)


def test_a_vector_is_no_matrix() -> None:
    with pytest.raises(ValueError, match="two axes"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "matrix": True}], lr=0.1)
