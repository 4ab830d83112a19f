"""Normalization only worked out: values, gradients and statistics of torch.nn.BatchNorm2d."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.nn import Normalized, can_normalize, normalized

EXACT = 1e-12  # float64, a few thousand terms
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def norm_of(channels: int = 5, **settings: Any) -> nn.BatchNorm2d:
    """In float64, with weights and statistics that are not those of the start."""
    norm = nn.BatchNorm2d(channels, **settings).double()
    generator = torch.Generator().manual_seed(0)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor, generator=generator)
    nn.init.uniform_(norm.running_var, 0.5, 2.0, generator=generator)
    return norm


def applied(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    out = normalized(norm, x, mean, var)
    assert out.raw is x
    return out.raw * out.scale[:, None, None] + out.shift[:, None, None]


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("settings", [
    {}, {"eps": 1e-1}, {"momentum": 1.0}, {"momentum": 0.01, "eps": 1e-3}, {"momentum": None},
])  # fmt: skip
def test_it_is_batch_norm(settings: dict[str, Any], training: bool) -> None:
    """Outputs, gradients and buffers, over some steps."""
    ours = norm_of(**settings).train(training)
    theirs = copy.deepcopy(ours)
    for step in range(3):
        x = torch.randn(2 + step, 5, 4, 3, dtype=torch.float64) * 3 + 1
        inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
        outputs = [applied(ours, inputs[0]), theirs(inputs[1])]
        torch.testing.assert_close(outputs[0], outputs[1], atol=EXACT, rtol=0)
        arriving = torch.randn_like(x)
        grads = [
            torch.autograd.grad(out, (given, norm.weight, norm.bias), arriving)
            for out, given, norm in zip(outputs, inputs, (ours, theirs))
        ]
        for a, b in zip(*grads):
            torch.testing.assert_close(a, b, atol=EXACT, rtol=0)
        for name in BUFFERS:
            torch.testing.assert_close(
                getattr(ours, name), getattr(theirs, name), atol=EXACT, rtol=0
            )
    assert ours.num_batches_tracked == (3 if training else 0)


def test_the_running_variance_is_the_unbiased_one() -> None:
    norm = nn.BatchNorm2d(1, momentum=1.0).double()
    applied(norm, torch.tensor([1.0, 3.0], dtype=torch.float64).view(2, 1, 1, 1))
    assert norm.running_mean == 2 and norm.running_var == 2  # about 2, divided by 2 - 1


def test_eval_reads_no_statistics_of_the_batch() -> None:
    """They are not even taken then: empty tensors stand for them."""
    norm = norm_of().eval()
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    empty = x.new_empty(0)
    out = normalized(norm, x, empty, empty)
    expected = out.raw * out.scale[:, None, None] + out.shift[:, None, None]
    torch.testing.assert_close(expected, norm(x), atol=EXACT, rtol=0)


def test_a_single_value_a_channel_is_refused_in_training_alone() -> None:
    """With torch's message, and nothing counted; elsewhere one value is in order."""
    norm = norm_of()
    x = torch.ones(1, 5, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as theirs:
        copy.deepcopy(norm)(x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as ours:
        applied(norm, x)
    assert str(ours.value) == str(theirs.value)
    assert norm.num_batches_tracked == 0
    torch.testing.assert_close(applied(norm.eval(), x), norm(x), atol=EXACT, rtol=0)


def test_buffers_do_not_hold_the_graph() -> None:
    norm = norm_of()
    applied(norm, torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True))
    assert not norm.running_mean.requires_grad and not norm.running_var.requires_grad


def test_what_can_be_normalized() -> None:
    assert can_normalize(nn.BatchNorm2d(3)) and can_normalize(nn.BatchNorm2d(3).eval())
    frozen = nn.BatchNorm2d(3).requires_grad_(False)
    assert can_normalize(frozen)


class Own(nn.BatchNorm2d):
    pass


def hooked() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.register_forward_hook(lambda *_: None)
    return norm


def without(name: str) -> nn.Module:
    norm = nn.BatchNorm2d(3)
    setattr(norm, name, None)
    return norm


def no_longer_tracking() -> nn.Module:
    """Its buffers are there, but training leaves them alone."""
    norm = nn.BatchNorm2d(3)
    norm.track_running_stats = False
    return norm


@pytest.mark.parametrize("norm", [
    nn.Identity(), nn.GroupNorm(1, 3), nn.SyncBatchNorm(3), Own(3), hooked(),
    nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False),
    nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3).to(torch.bfloat16), without("bias"),
    without("num_batches_tracked"), no_longer_tracking(),
], ids=lambda norm: type(norm).__name__)  # fmt: skip
def test_what_can_not(norm: nn.Module) -> None:
    assert not can_normalize(norm)


def test_a_tensor_as_it_is() -> None:
    x = torch.ones(1, 2, 3, 4)
    assert Normalized(x, None, None).raw is x
