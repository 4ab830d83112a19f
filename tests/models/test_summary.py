"""The table of layers: complete, in order, and of the right cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from xception.models import create_model, list_models
from xception.models.summary import summarize, totals
from xception.nn import InceptionModule, SegmentedConv2d, SeparableConv2d


def test_the_paper_network() -> None:
    with torch.device("meta"):
        model = create_model("xception")
    rows = summarize(model)
    assert totals(rows).parameters == 22_855_952
    assert totals(rows).macs == pytest.approx(8.36e9, rel=1e-3)
    assert rows[0].name == "stem.conv1" and rows[0].output_shape == (32, 149, 149)
    assert rows[0].macs == 32 * 149 * 149 * 27 and rows[0].parameters == 32 * 27
    assert rows[-1].name == "head.fc" and rows[-1].output_shape == (1000,)
    assert rows[-1].parameters == 2048 * 1000 + 1000 and rows[-1].macs == 2048 * 1000
    assert {r.type for r in rows} == {
        "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Dropout",
        "Linear",
    }  # fmt: skip
    assert sum(r.type == "Conv2d" for r in rows) == 2 + 2 * 34 + 4


@pytest.mark.parametrize("name", list_models())
def test_rows_add_up(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=7).eval()
    rows = summarize(model, (80, 96))
    assert totals(rows).parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, model.in_channels, 80, 96, device="meta"))
    assert totals(rows).macs == counter.get_total_flops() // 2
    assert len({r.name for r in rows}) == len(rows)


def test_the_model_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    model = create_model("xception_tiny", num_classes=3).double().train()
    calls: list[int] = []
    model.stem.register_forward_hook(lambda *_: calls.append(1))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    hooks = {name: len(m._forward_hooks) for name, m in model.named_modules()}
    summarize(model, 40)
    assert model.training and not calls
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert hooks == {name: len(m._forward_hooks) for name, m in model.named_modules()}
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "module, channels",
    [
        (SeparableConv2d(8, 12, stride=2, bias=True), 8),
        (SegmentedConv2d(8, 12, segments=5), 8),
        (SeparableConv2d(8, 12, order="pointwise_first", intermediate_activation="elu"), 8),
        (InceptionModule(8), 8),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_modules_on_their_own(module: nn.Module, channels: int) -> None:
    rows = summarize(module, 12)
    assert totals(rows).parameters == sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, channels, 12, 12))
    assert totals(rows).macs == counter.get_total_flops() // 2


def test_a_feature_extractor() -> None:
    extractor = create_model("xception_tiny", features_only=True, in_channels=1)
    rows = summarize(extractor)
    assert totals(rows).parameters == sum(p.numel() for p in extractor.parameters())
    assert rows[0].output_shape == (32, 32, 32)


def test_a_layer_that_is_called_twice_is_counted_once() -> None:
    conv = nn.Conv2d(4, 4, 1)
    rows = summarize(nn.Sequential(conv, nn.ReLU(), conv), 5)
    assert [r.parameters for r in rows] == [20, 0, 0]
    assert [r.macs for r in rows] == [400, 0, 400]


def test_half_precision_and_another_size() -> None:
    model = create_model("xception_tiny", num_classes=3).to(torch.bfloat16)
    assert summarize(model, (28, 30))[0].output_shape == (32, 28, 30)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least 16x16 pixels"):
        summarize(create_model("xception_tiny"), 8)
    with pytest.raises(ValueError, match="give a size: Conv2d does not state its picture size"):
        summarize(nn.Conv2d(3, 4, 1))
    with pytest.raises(ValueError, match="give in_channels: ReLU has no convolution"):
        summarize(nn.ReLU(), 8)
