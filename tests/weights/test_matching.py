"""Which weights of another classifier are taken over, and what becomes of its last layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from xception.errors import UsageError
from xception.models import Classifier, create_model
from xception.weights import TransferReport, transfer

Make = Callable[..., Classifier]
CLASSES = ["bag", "coat", "shirt"]


def fresh(name: str = "xception_tiny", **arguments: Any) -> Classifier:
    torch.manual_seed(1)
    model = create_model(name, **{"num_classes": 3, **arguments})
    assert isinstance(model, Classifier)
    return model


def body(model: nn.Module) -> dict[str, torch.Tensor]:
    """Everything below the last layer."""
    return {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("head.fc.")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_same_classes_keep_the_last_layer(model: Classifier) -> None:
    target = fresh()
    report = transfer(target, model, classes=CLASSES)
    assert report == TransferReport(last_layer="kept", reason="the classes are the same")
    assert same(dict(target.state_dict()), dict(model.state_dict()))
    assert target.class_names is None and target.training


def test_another_order_of_the_classes_reorders_the_last_layer(model: Classifier) -> None:
    target = fresh()
    report = transfer(target, model, classes=["shirt", "bag", "coat"])
    assert report.last_layer == "reordered"
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(target.eval()(x), model(x)[:, [2, 0, 1]])


@pytest.mark.parametrize(
    "classes, reason",
    [
        (["bag", "coat", "hat"], "the classes are other ones"),
        (["bag", "coat"], "the classes are other ones"),
        (["bag", "coat", "shirt", "hat"], "the classes are other ones"),
    ],
)
def test_other_classes_leave_the_last_layer_as_it_is(
    classes: list[str], reason: str, model: Classifier
) -> None:
    target = fresh(num_classes=len(classes))
    before = target.head.fc.weight.clone()
    report = transfer(target, model, classes=classes)
    assert report == TransferReport(last_layer="fresh", reason=reason)
    assert torch.equal(target.head.fc.weight, before)
    assert same(body(target), body(model))


def test_classes_that_the_source_does_not_name(tiny: Make) -> None:
    report = transfer(fresh(), tiny(), classes=CLASSES)
    assert report.last_layer == "fresh" and "not known" in report.reason


def test_without_names_the_number_decides(model: Classifier) -> None:
    assert transfer(fresh(), model, classes=None).last_layer == "kept"
    report = transfer(fresh(num_classes=4), model, classes=None)
    assert report == TransferReport(last_layer="fresh", reason="3 classes there, 4 here")


def test_networks_without_classes(model: Classifier, tiny: Make) -> None:
    target = fresh(num_classes=0)
    assert transfer(target, model, classes=None).last_layer == "fresh"
    assert same(body(target), body(model))
    assert transfer(fresh(num_classes=0), target, classes=None).last_layer == "kept"
    assert transfer(fresh(), tiny(num_classes=0), classes=None).last_layer == "fresh"


def test_dropout_may_differ(model: Classifier) -> None:
    target = fresh(dropout=0.5)
    transfer(target, model, classes=CLASSES)
    assert target.head.dropout.p == 0.5


def test_dtype_and_device_stay_the_models(tiny: Make) -> None:
    target = fresh().to(memory_format=torch.channels_last)
    transfer(target, tiny().half(), classes=None)
    assert {p.dtype for p in target.parameters()} == {torch.float32}
    assert target.stem.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_another_network_is_refused(model: Classifier) -> None:
    target = fresh("xception_small")
    before = body(target)
    with pytest.raises(UsageError) as caught:
        transfer(target, model, classes=CLASSES, name="runs/a/model.safetensors")
    line = str(caught.value)
    assert line.startswith("runs/a/model.safetensors holds weights of xception_tiny, which do not")
    assert "xception_small" in line and "\n" not in line
    assert same(body(target), before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "torch"},  # these fit by shape, and would give other numbers
        {"intermediate_activation": "relu"},
        {"bn_eps": 1e-5, "bn_momentum": 0.2},
        {"output_stride": 4},
        {"residual": False},
        {"in_channels": 1},
    ],
)
def test_other_arguments_are_refused_by_name(arguments: dict[str, Any], model: Classifier) -> None:
    target = fresh(**arguments)
    before = body(target)
    with pytest.raises(UsageError) as caught:
        transfer(target, model, classes=CLASSES)
    line = str(caught.value)
    assert "\n" not in line and all(f"{name}=" in line for name in arguments)
    assert same(body(target), before)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"fc_units": (8,)}, "the head has other fc_units"),
        ({"head_layers": ("linear 8", "relu")}, "the head has other head_layers"),
        ({"pooling": "max", "fc_units": (8,)}, "the head has other pooling and fc_units"),
    ],
)
def test_another_head_starts_fresh_on_the_same_network(
    arguments: dict[str, Any], reason: str, model: Classifier
) -> None:
    target = fresh(**arguments)
    head = {k: v.clone() for k, v in target.head.state_dict().items()}
    report = transfer(target, model, classes=CLASSES)
    assert report == TransferReport(last_layer="fresh", reason=reason)
    assert same(dict(target.head.state_dict()), head)
    taken = {k: v for k, v in target.state_dict().items() if not k.startswith("head.")}
    assert same(taken, {k: v for k, v in model.state_dict().items() if not k.startswith("head.")})


@pytest.mark.parametrize(
    "classes, last_layer",
    [
        (CLASSES, "kept"),
        (["shirt", "bag", "coat"], "reordered"),
        (["bag", "hat"], "fresh"),
        (None, "fresh"),
    ],
)
def test_layers_of_the_head_come_along(
    classes: list[str] | None, last_layer: str, tiny: Make
) -> None:
    layers = ("batchnorm 0.001 0.01", "linear 8", "gelu", "dropout 0.5")
    source = tiny(pooling="max", head_layers=layers)
    source.class_names = CLASSES
    arguments = {**source.architecture["args"], "num_classes": len(classes or "12345")}
    target = fresh(**arguments)
    report = transfer(target, source, classes=classes)
    assert report.last_layer == last_layer
    assert same(body(target), body(source)) and any("fc_layers.1.weight" in k for k in body(target))
    if last_layer == "reordered":
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(target.eval()(x), source(x)[:, [2, 0, 1]])


@pytest.mark.parametrize(
    "classes, last_layer",
    [(["shirt", "bag", "coat"], "reordered"), (["bag", "hat"], "fresh"), (None, "kept")],
)
def test_a_last_layer_that_is_a_convolution(
    classes: list[str] | None, last_layer: str, tiny: Make
) -> None:
    source = fresh("mini_xception").eval()
    source.class_names = CLASSES
    target = fresh("mini_xception", num_classes=len(classes or CLASSES))
    torch.nn.init.zeros_(target.head.fc.weight)
    assert transfer(target, source, classes=classes).last_layer == last_layer
    assert same(body(target), body(source))
    x = torch.randn(2, 1, 64, 64)
    if last_layer == "fresh":
        assert not target.head.fc.weight.any()
    else:
        order = [2, 0, 1] if last_layer == "reordered" else [0, 1, 2]
        torch.testing.assert_close(target.eval()(x), source(x)[:, order])


def test_a_description_without_defaults_is_resolved_first(model: Classifier) -> None:
    model.architecture = {"name": "xception_tiny", "args": {"num_classes": 3, "in_channels": 3}}
    assert transfer(fresh(padding="keras"), model, classes=CLASSES).last_layer == "kept"
    with pytest.raises(UsageError, match="set padding='keras'"):
        transfer(fresh(padding="torch"), model, classes=CLASSES)


def test_layers_that_were_changed_by_hand_are_refused(model: Classifier, tiny: Make) -> None:
    changed = tiny()
    changed.head.fc_layers.append(nn.Linear(256, 256))
    with pytest.raises(UsageError, match=r"head\.fc_layers\.0\.weight differs; .* create_model"):
        transfer(fresh(), changed, classes=None)
    wide = tiny()
    wide.head.fc = nn.Linear(256, 5)
    with pytest.raises(UsageError, match=r"head\.fc\.weight differs"):
        transfer(fresh(), wide, classes=None)


def test_a_network_of_unknown_architecture_is_refused(model: Classifier) -> None:
    model.architecture = {}
    with pytest.raises(UsageError, match="architecture of the source is not known"):
        transfer(fresh(), model, classes=None)
    with pytest.raises(UsageError, match="architecture of the model is not known"):
        transfer(model, fresh(), classes=None)


def test_as_many_classes_as_the_model_has(model: Classifier) -> None:
    with pytest.raises(ValueError, match="2 classes were named, the model has 3"):
        transfer(fresh(), model, classes=["bag", "coat"])
