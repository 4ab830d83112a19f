"""Stem and first block as one: when they are, and that hooks and replaced modules are heeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from xception import create_model
from xception.models.fused_stem import can_fuse_start
from xception.ops import set_kernels
from xception.ops.kernels import usable_names

NAMES = ["xception", "xception_tiny", "xception_small"]


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    if not usable_names():
        pytest.skip("the compiled kernels are not built here")
    before = set_kernels("auto")
    yield
    set_kernels(before)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=5)


def pictures() -> Tensor:
    return torch.randn(2, 3, 75, 71, generator=torch.Generator().manual_seed(1))


def is_fused(model: nn.Module) -> bool:
    return can_fuse_start(model.stem, model.entry_flow[0], pictures())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_stem(name: str, training: bool) -> None:
    """Of the first block's output, so that no pool further on can flip."""

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        model = network(name).to(dtype).train(training)
        model.keep_features(1)
        parameters = [*model.stem.parameters(), *model.entry_flow[0].parameters()]
        out = model.forward_features(pictures().to(dtype))
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        return [g.double() for g in torch.autograd.grad((out * weight).sum(), parameters)]

    assert is_fused(network(name).train(training))
    for found, expected in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        error = (found - expected).norm() / expected.norm().clamp(min=1e-3)
        assert error < 0.02  # rounding may change who wins a pool here and there


def _hook(model: nn.Module) -> None:
    model.stem.register_forward_hook(lambda *_: None)


def _hook_within(model: nn.Module) -> None:
    model.stem.norm1.register_forward_hook(lambda *_: None)


def _replace_activation(model: nn.Module) -> None:
    model.stem.act1 = nn.GELU()


def _freeze_norm(model: nn.Module) -> None:
    model.stem.norm1 = nn.Identity()


def _hook_on_block(model: nn.Module) -> None:
    model.entry_flow[0].register_forward_pre_hook(lambda *_: None)


def _append(model: nn.Module) -> None:
    model.stem.append(nn.Dropout(0.0))


def _insert(model: nn.Module) -> None:
    model.stem.insert(3, nn.Dropout(0.0))


def _drop_activation(model: nn.Module) -> None:
    del model.stem[-1]


@pytest.mark.parametrize("change", [
    _hook, _hook_within, _replace_activation, _freeze_norm, _hook_on_block, _append, _insert,
    _drop_activation,
])  # fmt: skip
def test_it_steps_aside(change: Callable[[nn.Module], None]) -> None:
    model = network("xception_tiny")
    assert is_fused(model)
    change(model)
    assert not is_fused(model)
    model(pictures())


def test_an_empty_stem_is_no_activation() -> None:
    model = create_model("xception_tiny", num_classes=5, in_channels=32).eval()
    model.stem = nn.Sequential()
    x = torch.randn(2, 32, 20, 20)
    found = model(x)
    set_kernels("off")
    torch.testing.assert_close(found, model(x))


def test_a_hook_on_a_convolution_fires() -> None:
    model, seen = network("xception_tiny"), []
    model.stem.conv1.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    model(pictures())
    assert seen == [(2, 32, 75, 71)]


def test_the_stem_as_a_feature_map_is_activated() -> None:
    features = create_model("xception_tiny", features_only=True, out_indices=(0, 1))
    first, _ = features(pictures())
    assert first.min() == 0
