"""A fused network computes what it did; nothing but classes changes, and all of it goes back."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import xception
from xception.errors import UsageError

ACTIVATIONS = {
    "relu": lambda: nn.ReLU(),
    "relu in place": lambda: nn.ReLU(inplace=True),
    "relu6 in place": lambda: nn.ReLU6(inplace=True),
    "hardswish": lambda: nn.Hardswish(),
    "hardswish in place": lambda: nn.Hardswish(inplace=True),
    "silu in place": lambda: nn.SiLU(inplace=True),
    "another one": lambda: nn.GELU(),
    "none": lambda: nn.Identity(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_values_gradients_and_statistics(name, training, small_network, assert_same, operators):
    plain = small_network(ACTIVATIONS[name]).train(training)
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    assert_same(fused, plain)
    out = fused(torch.randn(2, 3, 12, 12))
    assert operators(out) >= 7 and type(out) is torch.Tensor


def test_several_steps_learn_the_same(small_network, pictures):
    plain = small_network().train()
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    losses: list[list[float]] = []
    for network in (plain, fused):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        losses.append([])
        for _ in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(pictures()), torch.tensor([0, 1, 2]))
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_users_see_of_a_network_stays(small_network):
    plain = small_network()
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert str(fused) == str(plain)
    for a, b in zip(fused.modules(), plain.modules()):
        assert isinstance(a, type(b)) and type(a).__name__ == type(b).__name__
    plain.load_state_dict(fused.state_dict())
    fused.load_state_dict(plain.state_dict())


def test_unfuse_gives_all_classes_back(small_network):
    network = small_network()
    classes = [type(module) for module in network.modules()]
    attributes = [set(module.__dict__) for module in network.modules()]
    xception.fuse(network)
    assert [type(module) for module in network.modules()] != classes
    xception.unfuse(network)
    assert [type(module) for module in network.modules()] == classes
    assert [set(module.__dict__) for module in network.modules()] == attributes
    xception.unfuse(network)


def test_twice_is_once(small_network, assert_same):
    plain = small_network().train()
    fused = copy.deepcopy(plain)
    first = xception.fuse(fused)
    classes = [type(module) for module in fused.modules()]
    assert xception.fuse(fused) == first
    assert [type(module) for module in fused.modules()] == classes
    assert_same(fused, plain)


def test_copies_and_pickles_stay_fused(small_network, assert_same, operators):
    plain = small_network().train()
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    for copied in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), read):
        assert [type(m) for m in copied.modules()] == [type(m) for m in fused.modules()]
        assert_same(copied, plain)
        xception.unfuse(copied)
        assert operators(copied(torch.randn(2, 3, 12, 12))) == 0
    assert operators(fused(torch.randn(2, 3, 12, 12))) > 0


def test_fusing_changes_nothing_but_classes(small_network):
    """Neither modes nor statistics, nor the state of random numbers, nor hooks."""
    network = small_network().train()
    network[5].eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    xception.fuse(network)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_frozen_normalization_in_training(small_network, assert_same):
    plain = small_network().train()
    plain[5].layers[4].eval()
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    assert_same(fused, plain)


def test_frozen_parameters_have_no_gradients(small_network, assert_same):
    plain = small_network().train()
    for parameter in plain[5].parameters():
        parameter.requires_grad_(False)
    fused = copy.deepcopy(plain)
    xception.fuse(fused)
    assert_same(fused, plain)


def test_an_example_that_does_not_fit_is_named(small_network):
    with pytest.raises(UsageError, match=r"an example of \(1, 4, 8, 8\).*give fuse\(model, exam"):
        xception.fuse(small_network(), torch.zeros(1, 4, 8, 8))


def test_a_network_without_convolutions():
    with pytest.raises(UsageError, match="holds no Conv2d"):
        xception.fuse(nn.Linear(3, 3))


def test_a_failed_fusion_leaves_no_trace(small_network):
    network = small_network().train()
    with pytest.raises(UsageError):
        xception.fuse(network, torch.zeros(1, 4, 8, 8))
    assert all(module.training for module in network.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_view_of_what_is_channels_last_now_is_named():
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x).view(x.shape[0], -1)

    network = Viewing().train()
    classes = [type(module) for module in network.modules()]
    with pytest.raises(UsageError, match="channels_last memory format"):
        xception.fuse(network, torch.zeros(1, 3, 8, 8))
    assert [type(module) for module in network.modules()] == classes and network.training
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 256)


def test_the_example_moves_no_random_numbers_and_calls_no_train(small_network):
    class Drawing(nn.Sequential):
        def train(self, mode: bool = True) -> nn.Module:
            raise AssertionError("what a network does besides is not to happen")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.rand_like(x))

    network = Drawing(*small_network())
    random = torch.get_rng_state()
    xception.fuse(network)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in network.modules())
