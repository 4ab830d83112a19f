"""Fig. 1 to Fig. 3 of the paper: shapes, and strict equivalence in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from xception.nn import InceptionModule, SimplifiedInception

EXACT = 1e-12


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_inception_module_lays_four_branches_side_by_side() -> None:
    module = InceptionModule(16, 4, (3, 5), (2, 6, 7), 8).double().eval()
    x = rand(2, 16, 9, 8)
    out = module(x)
    assert out.shape == (2, module.out_channels, 9, 8) and module.out_channels == 4 + 5 + 7 + 8
    pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    for branch, input_, piece in zip(
        (module.branch1x1, module.branch3x3, module.branch3x3x2, module.pool),
        (x, x, x, pooled),
        out.split([4, 5, 7, 8], dim=1),
    ):
        torch.testing.assert_close(branch(input_), piece, atol=EXACT, rtol=0)


@pytest.mark.parametrize("activation", ["none", "relu", "elu"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("towers, out_channels", [(1, 6), (3, 12), (3, 11), (4, 7), (7, 7)])
def test_figure_2_is_figure_3(towers: int, out_channels: int, bias: bool, activation: str) -> None:
    inception = SimplifiedInception(
        5,
        out_channels,
        towers,
        bias=bias,
        intermediate_activation=activation,  # type: ignore[arg-type]
    ).double()
    segmented = inception.to_segmented()
    x2 = rand(2, 5, 8, 7).requires_grad_()
    x3 = x2.detach().clone().requires_grad_()
    out2, out3 = inception(x2), segmented(x3)
    torch.testing.assert_close(out2, out3, atol=EXACT, rtol=0)
    grad = torch.randn_like(out2)
    out2.backward(grad)
    out3.backward(grad)
    torch.testing.assert_close(x2.grad, x3.grad, atol=EXACT, rtol=0)
    by_tower = torch.cat([tower[0].weight.grad for tower in inception.towers])
    torch.testing.assert_close(segmented.pointwise.weight.grad, by_tower, atol=EXACT, rtol=0)
    spatial2 = [tower[2].weight.grad for tower in inception.towers]
    spatial3 = [
        piece for run in segmented.spatial.runs for piece in run.weight.grad.chunk(run.groups)
    ]
    for ours, theirs in zip(spatial3, spatial2, strict=True):
        torch.testing.assert_close(ours, theirs, atol=EXACT, rtol=0)


def test_to_segmented_keeps_dtype_mode_and_owns_its_weights() -> None:
    inception = SimplifiedInception(3, 7, 3, padding="torch").double().eval()
    segmented = inception.to_segmented()
    assert not segmented.training and segmented.pointwise.weight.dtype == torch.float64
    assert all(p.requires_grad for p in segmented.parameters())
    x = rand(1, 3, 6, 6)
    before = segmented(x)
    with torch.no_grad():
        for parameter in inception.parameters():
            parameter.zero_()
    assert torch.equal(segmented(x), before)


@pytest.mark.parametrize("towers", [0, 8])
def test_towers_must_fit_the_channels(towers: int) -> None:
    with pytest.raises(ValueError, match="towers"):
        SimplifiedInception(3, 7, towers)
