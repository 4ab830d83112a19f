"""A folded copy computes the same, and has no normalization where it can have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from xception.export import fold_batch_norm
from xception.models import list_models

# Normalization behind a sum cannot be folded: each block of these begins with one, but the first.
LEFT = {"xception41p": 12, "xception65p": 20}


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("name", list_models())
def test_every_network(name: str, make_trained: Any, small_size: Any) -> None:
    model = make_trained(name).double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    folded = fold_batch_norm(model.train())
    assert model.training and not folded.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert norms(folded) == LEFT.get(name, 0)
    assert not any(p.requires_grad for p in folded.parameters())
    x = torch.randn(2, model.in_channels, *small_size(model), dtype=torch.float64)
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(
            folded(x), expected, rtol=0, atol=1e-12 * expected.abs().max().item()
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"segments": 3},
        {"segments": 1, "intermediate_activation": "elu"},
        {"residual": False, "pooling": "max", "padding": "torch"},
        {"head_layers": ["linear 8", "batchnorm 0.001 0.1", "relu"]},
        {"num_classes": 0, "fc_units": (5,)},
    ],
)
def test_points_of_the_spectrum_and_heads(arguments: dict[str, Any], make_trained: Any) -> None:
    model = make_trained(**arguments).double()
    folded = fold_batch_norm(model)
    assert norms(folded) == 0 < norms(model)
    x = torch.randn(3, 3, 20, 17, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-12)


class Twisted(nn.Module):
    """Layers of which none can be folded, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 1)
        self.norm_of_shared = nn.BatchNorm2d(3)
        self.tapped = nn.Conv2d(3, 3, 1)
        self.norm_of_tapped = nn.BatchNorm2d(3)
        self.changed = weight_norm(nn.Conv2d(3, 3, 1))
        self.norm_of_changed = nn.BatchNorm2d(3)
        self.free = nn.Conv2d(3, 3, 1)
        self.norm_without_statistics = nn.BatchNorm2d(3, track_running_stats=False)
        self.active = nn.Conv2d(3, 3, 1)
        self.norm_behind_activation = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_of_shared(self.shared(x)) + self.shared(x)
        tapped = self.tapped(x)
        x = self.norm_of_tapped(tapped) * tapped
        x = self.norm_of_changed(self.changed(x))
        x = self.norm_without_statistics(self.free(x))
        return self.norm_behind_activation(torch.relu_(self.active(x)))


def test_what_cannot_be_folded_stays() -> None:
    torch.manual_seed(0)
    model = Twisted().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, 0.5, 1.5)
    folded = fold_batch_norm(model, 5)
    assert norms(folded) == norms(model) == 5
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(folded(x), model(x))


def test_a_copy_has_no_hooks(make_trained: Any) -> None:
    model = make_trained()
    model.stem.conv1.register_forward_hook(lambda *_: 1 / 0)
    assert norms(fold_batch_norm(model)) == 0
    with pytest.raises(ZeroDivisionError):
        model(torch.randn(1, 3, 16, 16))


def test_dtype_and_layout_are_kept(make_trained: Any) -> None:
    folded = fold_batch_norm(make_trained().bfloat16())
    assert {p.dtype for p in folded.parameters()} == {torch.bfloat16}
