"""Activations that hooks take hold of are in the graph, as Grad-CAM and its like want them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import xception
from xception.fusion.deferred import Deferred

PLACES = {
    "output of a container": ("5.layers", False),
    "input of a container": ("6", True),
    "output of a block": ("5", False),
    "output of a normalization": ("4", False),
    "input of a convolution": ("5.layers.3", True),
    "input of an activation": ("5.layers.5", True),
    "output of a convolution": ("5.layers.0", False),
}


@pytest.mark.parametrize("path, is_input", PLACES.values(), ids=PLACES)
def test_gradients_of_what_a_hook_keeps(path, is_input, pair, pictures):
    grads: list[list[Tensor]] = []
    for network in pair:
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: Any, out: Any = None, kept: list[Tensor] = kept) -> None:
            kept.append(args[0] if out is None else out)

        module = network.get_submodule(path)
        register = module.register_forward_pre_hook if is_input else module.register_forward_hook
        handle = register(keep)
        out = network(pictures())
        handle.remove()
        (tensor,) = kept
        assert type(tensor) is Tensor
        tensor.retain_grad()
        fired: list[Tensor] = []
        tensor.register_hook(fired.append)
        grads.append(list(torch.autograd.grad(out.square().sum(), tensor, retain_graph=True)))
        out.square().sum().backward()
        assert len(fired) == 2 and tensor.grad is not None
        grads[-1].append(tensor.grad)
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)


def test_without_the_hook_it_is_put_off_again(pair, pictures):
    fused, _ = pair
    for network in (fused, copy.deepcopy(fused), copy.deepcopy(fused[:5])):
        first = network[:5]
        assert type(first(pictures())) is Deferred
    copied = copy.deepcopy(fused)
    handle = copied[5].layers[0].register_forward_hook(lambda *_: None)
    assert type(copied[:5](pictures())) is Tensor and type(fused[:5](pictures())) is Deferred
    handle.remove()
    assert type(copied[:5](pictures())) is Deferred


def test_a_part_is_copied_without_its_neighbours(pair):
    """What a module knows of them is not to hold the whole network."""
    norm = copy.deepcopy(pair[0][4])
    reached: list[Any] = [norm.__dict__]
    for item in reached:
        for part in item.values() if isinstance(item, dict) else item:
            assert not isinstance(part, nn.Module)
            if isinstance(part, (dict, list, tuple, set)):
                reached.append(part)
    for hooks in norm.role.hooks:
        assert not hooks


def test_hooks_that_change_the_numbers_alone(pair):
    """`data` has no version; the statistics that were taken before are not those of it."""

    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        out.data.mul_(3).add_(2)

    x = torch.randn(2, 3, 12, 12)
    for network in pair:
        network[3].register_forward_hook(hook)
    fused, plain = (network(x) for network in pair)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pair[0][4].running_mean, pair[1][4].running_mean)


def test_an_extractor_that_is_fused_gives_what_is_in_the_graph(pair):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    grads = []
    for network in (pair[1], copy.deepcopy(pair[1])):
        extractor = extraction.create_feature_extractor(network, ["5.layers.2", "9"])
        if grads:
            assert len(xception.fuse(extractor).swapped) > 10
        found = extractor(torch.ones(2, 3, 12, 12).cumsum(3))
        grads.append(torch.autograd.grad(found["9"].square().sum(), found["5.layers.2"])[0])
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)
