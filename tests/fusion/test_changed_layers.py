"""Layers that are given something else after they were fused: they step aside, or take it over."""

from __future__ import annotations

import copy
import pickle
import types

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval, parametrizations, parametrize

import xception
from xception.nn import SyncBatchNorm2d, convert_sync_batchnorm


def separable() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False),
        nn.Conv2d(3, 8, 1, bias=False),
        nn.BatchNorm2d(8),
    ).eval()


def doubled(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, 2 * weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def give_bias(conv: nn.Conv2d) -> None:
    conv.bias = nn.Parameter(torch.linspace(-2, 2, conv.out_channels))


def give_stride(conv: nn.Conv2d) -> None:
    conv.stride = (2, 2)


def give_padding(conv: nn.Conv2d) -> None:
    conv.padding = (2, 2)


def give_padding_mode(conv: nn.Conv2d) -> None:
    conv.padding_mode, conv._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]


def give_forward(conv: nn.Conv2d) -> None:
    conv._conv_forward = types.MethodType(doubled, conv)


def give_weight(conv: nn.Conv2d) -> None:
    conv.weight = nn.Parameter(torch.ones(conv.out_channels, conv.in_channels // conv.groups, 5, 5))


GIVEN = [give_bias, give_stride, give_padding, give_padding_mode, give_forward, give_weight]


@pytest.mark.parametrize("is_given_first", [False, True])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("give", GIVEN)
def test_what_is_given_to_a_convolution(give, index, is_given_first, pictures):
    plain, fused = separable(), separable()
    if not is_given_first:
        xception.fuse(fused)
    for network in (plain, fused):
        give(network[index])
    if is_given_first:
        xception.fuse(fused)
    torch.testing.assert_close(fused(pictures()), plain(pictures()), rtol=1e-4, atol=1e-4)


def test_normalization_folded_by_torch(pair, pictures):
    for network in pair:
        network.eval()
        network[3], network[4] = fuse_conv_bn_eval(network[3], network[4]), nn.Identity()
    torch.testing.assert_close(pair[0](pictures()), pair[1](pictures()))


@pytest.mark.parametrize("path", ["3", "5.layers.3"])
@pytest.mark.parametrize("order", ["FNFRF", "NFR", "FNURF", "NFRFU", "FFNFU"])
def test_fused_and_parametrized_in_any_order(order, path, small_network, assert_same):
    """Fused, weight-normalized, the latter removed, unfused."""
    plain, fused = small_network().train(), small_network().train()
    for step in order:
        if step in "FU":
            (xception.fuse if step == "F" else xception.unfuse)(fused)
            continue
        for network in (plain, fused):
            module = network.get_submodule(path)
            if step == "N":
                parametrizations.weight_norm(module)
            else:
                parametrize.remove_parametrizations(module, "weight")
    assert_same(fused, plain)


class Same(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 1


def test_a_parametrized_layer_is_left_and_says_so(small_network):
    network = small_network()
    for path in ("3", "5.layers.1"):
        parametrize.register_parametrization(network.get_submodule(path), "weight", Same())
    reasons = {entry.path: entry.text for entry in xception.fuse(network).left}
    assert reasons["3"].startswith("is parametrized") and reasons["5.layers.1"] == "is parametrized"


def test_a_parametrization_is_computed_once_a_call(pair, pictures):
    calls = []

    class Counting(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            calls.append(1)
            return weight

    for network in pair:
        parametrize.register_parametrization(network[3], "weight", Counting())
        calls.clear()
        network(pictures())
        assert len(calls) == 1


def test_synchronized_normalization_takes_the_place_of_a_fused_one(pair, assert_same):
    fused, plain = pair
    behaviours = [type(module).__mro__[1] for module in fused.modules()]
    assert convert_sync_batchnorm(fused) is fused
    norms = [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(isinstance(norm, SyncBatchNorm2d) for norm in norms)
    assert [type(module).__mro__[1] for module in fused.modules()] == behaviours
    for network in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), fused):
        assert_same(network, copy.deepcopy(plain))
    xception.unfuse(fused)
    assert all(type(norm) is SyncBatchNorm2d for norm in norms)
