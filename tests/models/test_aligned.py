"""The aligned networks against timm's of the same name, weight for weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.models import create_model, list_models
from xception.models.aligned import AlignedXception
from xception.models.aligned_units import PreActivatedSeparableConv2d
from xception.nn import Conv2dSame

NAMES = ["xception41", "xception65", "xception71", "xception41p", "xception65p"]


def test_these_are_all() -> None:
    with torch.device("meta"):
        aligned = [n for n in list_models() if isinstance(create_model(n), AlignedXception)]
    assert aligned == NAMES


def randomize(model: nn.Module) -> None:
    """Weights and statistics under which no layer is the identity and nothing grows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def pair(name: str, **arguments: Any) -> tuple[nn.Module, AlignedXception]:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7, **arguments)
    randomize(theirs)
    ours = create_model(name, num_classes=7, **arguments)
    source, target = theirs.state_dict(), ours.state_dict()
    assert [tuple(t.shape) for t in source.values()] == [tuple(t.shape) for t in target.values()]
    ours.load_state_dict(dict(zip(target, source.values())))
    assert isinstance(ours, AlignedXception)
    return theirs.double().eval(), ours.double().eval()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    scale = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, atol=1e-10 * scale, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_feature_maps_are_those_of_timm(name: str) -> None:
    theirs, ours = pair(name)
    x = torch.randn(1, 3, 65, 96, dtype=torch.float64)
    with torch.no_grad():
        assert_close(ours(x), theirs(x))
        expected = theirs.forward_intermediates(x, intermediates_only=True)
        found = ours.forward_intermediates(x, range(5))
    for info, a, b in zip(ours.feature_info, found, expected, strict=True):
        assert_close(a, b)
        assert a.shape[1] == info["num_chs"]
    keys = ("num_chs", "reduction")
    assert [[i[k] for k in keys] for i in ours.feature_info] == [
        [i[k] for k in keys] for i in theirs.feature_info
    ]


@pytest.mark.parametrize("name", ["xception41", "xception41p"])
def test_at_299(name: str) -> None:
    theirs, ours = pair(name)
    x = torch.randn(1, 3, 299, 299)
    with torch.no_grad():
        a, b = ours.float()(x), theirs.float()(x)
    torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["xception41", "xception71", "xception41p"])
def test_output_stride_is_timms(name: str, output_stride: int) -> None:
    theirs, ours = pair(name, output_stride=output_stride)
    x = torch.randn(1, 3, 64, 47, dtype=torch.float64)
    with torch.no_grad():
        assert_close(ours.forward_features(x), theirs.forward_features(x))
        assert_close(ours(x), theirs(x))
    assert [i["reduction"] for i in ours.feature_info] == [
        i["reduction"] for i in theirs.feature_info
    ]


@pytest.mark.parametrize("name", ["xception41", "xception41p"])
def test_gradients_are_timms(name: str) -> None:
    theirs, ours = pair(name)
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    for model in (theirs, ours):
        model.train()(x).square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9 * b.grad.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", ["xception41", "xception41p"])
def test_numerics_are_timms(name: str) -> None:
    theirs, ours = pair(name)
    norms = [[m for m in n.modules() if isinstance(m, nn.BatchNorm2d)] for n in (ours, theirs)]
    assert [(m.eps, m.momentum) for m in norms[0]] == [(m.eps, m.momentum) for m in norms[1]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_features_only(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        extractor = create_model(name, features_only=True, output_stride=output_stride).eval()
        maps = extractor(torch.empty(1, 3, 96, 64))
    assert [i["num_chs"] for i in extractor.feature_info] == [128, 256, 728, 1024, 2048]
    assert [i["reduction"] for i in extractor.feature_info] == [
        min(r, output_stride) for r in (2, 4, 8, 16, 32)
    ]
    for info, feature in zip(extractor.feature_info, maps, strict=True):
        reduction = info["reduction"]
        assert feature.shape == (1, info["num_chs"], 96 // reduction, 64 // reduction)


@pytest.mark.parametrize("name", ["xception41", "xception41p"])
def test_features_cut_short_keep_no_unused_parameters(name: str) -> None:
    torch.manual_seed(0)
    whole = create_model(name).eval()
    extractor = create_model(name, features_only=True, out_indices=(0, 2)).eval()
    loaded = extractor.network.load_state_dict(whole.state_dict(), strict=False)
    assert not loaded.missing_keys
    x = torch.randn(1, 3, 40, 40)
    maps = extractor(x)
    for ours, expected in zip(maps, whole.forward_intermediates(x, (0, 2)), strict=True):
        torch.testing.assert_close(ours, expected)
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is not None for p in extractor.parameters())


def test_activation_between_depthwise_and_pointwise_only_in_the_last_block() -> None:
    with torch.device("meta"):
        model = create_model("xception65")
    blocks = [stage for name, stage in model.stages() if "flow" in name]
    inner = [
        [type(m.depthwise_act) is nn.ReLU for m in block.units if hasattr(m, "depthwise_act")]
        for block in blocks
    ]
    assert inner == [[False] * 3] * (len(blocks) - 1) + [[True] * 3]


def test_nothing_stands_between_the_two_in_the_pre_activation_form() -> None:
    with torch.device("meta"):
        model = create_model("xception65p")
    units = [m for m in model.modules() if isinstance(m, PreActivatedSeparableConv2d)]
    assert len(units) == 3 * (3 + 16 + 2)
    assert all(next(iter(dict(u.conv.named_children()))) == "depthwise" for u in units)


def test_keras_padding() -> None:
    torch.manual_seed(0)
    symmetric = create_model("xception41", num_classes=3).eval()
    keras = create_model("xception41", num_classes=3, padding="keras").eval()
    keras.load_state_dict(symmetric.state_dict())
    strided = [n for n, m in keras.named_modules() if isinstance(m, Conv2dSame)]
    assert strided == ["stem.conv1"] + [
        f"{block}.units.conv3.depthwise"
        for block in ("entry_flow.0", "entry_flow.1", "entry_flow.2", "exit_flow.0")
    ]
    with torch.no_grad():
        odd, even = torch.randn(1, 3, 65, 65), torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(keras(odd), symmetric(odd))
        assert not torch.allclose(keras(even), symmetric(even))


@pytest.mark.parametrize("output_stride, every", [(16, 2), (8, 4)])
@pytest.mark.parametrize("name", ["xception41", "xception65p"])
def test_a_dilated_network_sees_what_the_strided_one_sees(
    name: str, output_stride: int, every: int
) -> None:
    """Where both have a value it is the same: the meaning of dilation in a stride's place."""
    torch.manual_seed(0)
    strided = create_model(name)
    randomize(strided)
    strided.double().eval()
    dilated = create_model(name, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = strided.forward_features(x), dilated.forward_features(x)
    assert_close(fine[..., ::every, ::every], coarse)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"output_stride": 4}, r"output_stride must be one of \[8, 16, 32\], got 4"),
        ({"padding": "same"}, "padding must be one of"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"bn_eps": -1.0}, r"bn_eps must be above 0, got -1\.0"),
        ({"bn_momentum": 2}, "bn_momentum must be above 0 and at most 1, got 2"),
        ({"segments": 3}, "xception41 has no argument 'segments'"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_model("xception41", **arguments)


def test_below_the_minimum_size() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"at least 32x32 .* got 31x64"):
        create_model("xception41")(torch.empty(1, 3, 31, 64))
