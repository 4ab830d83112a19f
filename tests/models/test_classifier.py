"""The interface that users of timm know, for networks of both families."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from xception.models import (
    Classifier,
    FeatureExtractor,
    create_model,
    list_models,
    resolved_arguments,
)

POOLED_FIRST = ["xception_tiny", "xception", "xception41", "xception41p"]
FAMILIES = [*POOLED_FIRST, "mini_xception"]


def meta(name: str, **arguments: Any) -> Any:
    with torch.device("meta"):
        return create_model(name, **arguments).eval()


def picture(model: Any) -> torch.Tensor:
    channels = model.preprocessing.channels
    return torch.empty(2, channels, *model.preprocessing.size, device="meta")


@pytest.mark.parametrize("name", POOLED_FIRST)
def test_forward_is_features_then_head(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=4).eval()
    x = torch.randn(1, 3, 72, 72)
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape[1] == model.num_features
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((2, 3)))
        assert torch.equal(model.get_classifier()(pooled), model.forward_head(features))
        assert torch.equal(model(x), model.forward_head(features))


@pytest.mark.parametrize("name", FAMILIES)
def test_reset_classifier(name: str) -> None:
    model = meta(name, num_classes=4)
    model.class_names = ["a", "b", "c", "d"]
    model.reset_classifier(7)
    assert model(picture(model)).shape == (2, 7)
    assert model.num_classes == 7 and model.class_names is None
    assert model.architecture["args"]["num_classes"] == 7
    assert model.get_classifier().weight.is_meta
    model.reset_classifier(0)
    assert model(picture(model)).shape == (2, model.num_features)
    assert isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(3)
    assert model(picture(model)).shape == (2, 3)


def test_a_fresh_classifier_has_the_dtype_and_device_of_the_network() -> None:
    model = create_model("xception_tiny", num_classes=4).double()
    model.reset_classifier(5)
    assert model.get_classifier().weight.dtype == torch.float64
    without = create_model("xception_tiny", num_classes=0).double()
    without.reset_classifier(5)
    assert without(torch.zeros(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 5)


@pytest.mark.parametrize("name", list_models())
def test_feature_info_describes_the_maps(name: str) -> None:
    extractor = meta(name, features_only=True)
    assert isinstance(extractor, FeatureExtractor)
    height, width = 128, 64 if name != "xception" else 96
    maps = extractor(torch.empty(2, picture(extractor).shape[1], height, width, device="meta"))
    assert len(maps) == len(extractor.feature_info)
    for info, feature in zip(extractor.feature_info, maps):
        assert feature.shape[1] == info["num_chs"]
        for side, pixels in ((2, height), (3, width)):
            # Two stems have no padding: their maps lose a few pixels at the border.
            assert 0 <= pixels / info["reduction"] - feature.shape[side] <= 4
    reductions = [info["reduction"] for info in extractor.feature_info]
    assert reductions == sorted(set(reductions))


@pytest.mark.parametrize("name", FAMILIES)
def test_feature_maps_are_those_of_the_named_modules(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3).eval()
    found: dict[str, torch.Tensor] = {}
    for info in model.feature_info:
        module = model.get_submodule(info["module"])
        module.register_forward_hook(
            lambda _, __, out, key=info["module"]: found.__setitem__(key, out.clone())
        )
    with torch.no_grad():
        maps = model.forward_intermediates(
            torch.randn(1, model.in_channels, 72, 72), range(len(model.feature_info))
        )
    for info, feature in zip(model.feature_info, maps, strict=True):
        assert torch.equal(found[info["module"]], feature)  # and nothing wrote into it later


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("indices, expected", [((0,), [0]), ((-1,), [-1]), ((2, 1, 1), [1, 2])])
def test_out_indices(name: str, indices: tuple[int, ...], expected: list[int]) -> None:
    whole = create_model(name, num_classes=3).feature_info
    extractor = meta(name, features_only=True, out_indices=indices)
    assert extractor.feature_info == [whole[i] for i in expected]
    maps = extractor(picture(extractor))
    assert [m.shape[1] for m in maps] == [whole[i]["num_chs"] for i in expected]


@pytest.mark.parametrize("indices", [(), (9,), (-9,)])
def test_out_indices_that_there_are_not(indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="out_indices must name some of the 4 feature maps"):
        meta("xception_tiny", features_only=True, out_indices=indices)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_feature_extractor_has_no_unused_parameters(name: str, index: int) -> None:
    torch.manual_seed(0)
    extractor = create_model(name, features_only=True, out_indices=(index,))
    (feature,) = extractor(torch.randn(2, extractor.preprocessing.channels, 72, 72))
    feature.square().sum().backward()
    unused = [n for n, p in extractor.named_parameters() if p.grad is None]
    assert not unused


def test_a_feature_extractor_checks_its_input() -> None:
    extractor = meta("xception", features_only=True)
    with pytest.raises(ValueError, match="at least 71x71"):
        extractor(torch.empty(1, 3, 70, 70, device="meta"))


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_sorts_every_parameter_once(name: str, coarse: bool) -> None:
    model = meta(name)
    patterns = model.group_matcher(coarse)
    groups: list[tuple[int, ...]] = []
    for parameter, _ in model.named_parameters():
        matches = [
            (i, *map(int, m.groups()))
            for i, p in enumerate(patterns.values())
            if (m := re.match(p, parameter))
        ]
        assert len(matches) == (0 if parameter.startswith("head.") else 1), parameter
        groups.append(matches[0] if matches else (len(patterns),))
    assert groups == sorted(groups)  # from input to output
    flows = [len(getattr(model, f)) for f in ("entry_flow", "middle_flow", "exit_flow")]
    tail = any(True for _ in model.tail.parameters())
    assert len(set(groups)) == (sum(map(bool, flows)) if coarse else sum(flows)) + 2 + tail


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_reads_the_group_matcher(name: str) -> None:
    timm_models = pytest.importorskip("timm.models")
    model = meta(name)
    groups = timm_models.group_parameters(model, model.group_matcher())
    assert sorted(n for names in groups.values() for n in names) == sorted(
        n for n, _ in model.named_parameters()
    )
    assert list(groups) == sorted(groups)


@pytest.mark.parametrize("name", list_models())
def test_what_travels_with_a_model(name: str) -> None:
    model = meta(name, num_classes=4, dropout=0.25)
    assert isinstance(model, Classifier)
    assert model.architecture == {
        "name": name,
        "args": resolved_arguments(name, num_classes=4, dropout=0.25),
    }
    assert model.class_names is None
    twin = meta(model.architecture["name"], **model.architecture["args"])
    assert list(twin.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    "shape, message",
    [
        ((3, 32, 32), r"x must be \(N, 3, H, W\), got \(3, 32, 32\)"),
        ((1, 1, 32, 32), r"x must be \(N, 3, H, W\), got \(1, 1, 32, 32\)"),
        ((1, 3, 15, 32), "at least 16x16 pixels for this network, got 15x32"),
    ],
)
def test_inputs_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    model = meta("xception_tiny")
    for call in (model, model.forward_features):
        with pytest.raises(ValueError, match=message):
            call(torch.empty(shape, device="meta"))
    with pytest.raises(ValueError, match=message):
        model.forward_intermediates(torch.empty(shape, device="meta"), [0])
