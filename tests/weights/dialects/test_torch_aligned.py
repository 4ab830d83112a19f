"""timm's aligned networks under timm's names, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.models import Classifier, create_model
from xception.weights.dialects.torch_aligned import (
    _COUNTERPARTS,
    NAMES,
    recognise,
    timm_tensors,
    to_timm,
)
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported

State = dict[str, Tensor]


def imported(tensors: State) -> Imported:
    found = recognise(FileContents(kind="safetensors", tensors=tensors))
    assert found is not None
    return found


def hollow(name: str, **arguments: Any) -> State:
    """The network's names, each with one number that is as large as the shape says."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name, **{"num_classes": 5, **arguments})
    return {
        key: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for key, tensor in model.state_dict().items()
    }


@pytest.fixture
def assert_same_numbers(assert_same_stages: Callable[..., Tensor]) -> Callable[..., None]:
    """assert_same_numbers(ours, other, x, tolerance): at stem, blocks, feature maps and logits."""

    def check(ours: Classifier, other: nn.Module, x: Tensor, tolerance: float) -> None:
        mine = [name for name, _ in ours.stages() if name != "tail"]
        theirs = ["stem", *(f"blocks.{i}" for i in range(len(mine) - 1))]
        names = dict(zip(mine, theirs, strict=True))
        logits = assert_same_stages(ours, other, names, x, tolerance)
        with torch.no_grad():
            maps = ours.forward_intermediates(x, range(5))
            their_maps = other.forward_intermediates(x, intermediates_only=True)
        for a, b in zip(maps, their_maps, strict=True):
            assert (a - b).abs().max() <= tolerance * b.abs().max()
        spread = (logits[0] - logits[1]).abs().max()
        assert spread > 0.01 * logits.abs().max()  # they see the picture

    return check


@pytest.mark.parametrize("name", NAMES)
def test_both_ways_with_timms_numbers(
    assert_same_numbers: Callable[..., None],
    randomize_torch: Callable[[nn.Module, str], None],
    name: str,
) -> None:
    """float64 and float32, square and not; the way back is bit-identical and timm loads it."""
    timm = pytest.importorskip("timm")
    network = timm.create_model(name, num_classes=5).eval()
    randomize_torch(network, "linear")
    state = dict(network.state_dict())
    result = imported(state)
    assert result.report.dialect == f"timm {name}, safetensors"
    assert result.model.architecture["name"] == name
    assert_same_numbers(result.model, network, torch.randn(2, 3, 71, 71), 1e-4)

    back = to_timm(result.model)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert {there for there, _ in result.report.mapped} == set(state)
    assert {here for _, here in result.report.mapped} == set(result.model.state_dict())

    again = timm.create_model(name, num_classes=5).eval()
    again.load_state_dict(back, strict=True)
    wide = torch.randn(2, 3, 64, 97, dtype=torch.float64)
    assert_same_numbers(result.model.double(), again.double(), wide, 1e-10)


@pytest.mark.parametrize("name, num_classes", [("xception41", 3), ("xception41p", 0)])
def test_timm_loads_what_was_built_here(
    assert_same_numbers: Callable[..., None],
    randomize_torch: Callable[[nn.Module, str], None],
    name: str,
    num_classes: int,
) -> None:
    timm = pytest.importorskip("timm")
    ours = create_model(name, num_classes=num_classes, in_channels=1, dropout=0.5, bn_momentum=0.2)
    assert isinstance(ours, Classifier)
    randomize_torch(ours, "linear")
    ours.double().eval()
    other = timm.create_model(name, num_classes=num_classes, in_chans=1).double().eval()
    other.load_state_dict(to_timm(ours), strict=True)
    assert_same_numbers(ours, other, torch.randn(2, 1, 71, 96, dtype=torch.float64), 1e-10)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_tell_which_it_is(name: str, prefix: str) -> None:
    state = hollow(name)
    tensors = {prefix + key: tensor for key, tensor in state.items()}
    found = imported(tensors)
    assert found.model.architecture["name"] == name
    contents = FileContents(kind="safetensors", tensors=tensors)
    assert set(timm_tensors(contents)) == set(state)


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_and_numerics_are_those_of_timms_name(name: str) -> None:
    timm = pytest.importorskip("timm")
    cfg = timm.get_pretrained_cfg(name)
    found = imported(hollow(name))
    p = found.model.preprocessing
    assert (p.size, p.resize, p.crop_fraction, p.interpolation, p.mean, p.std) == (
        cfg.input_size[1:],
        "crop",
        cfg.crop_pct,
        cfg.interpolation,
        cfg.mean,
        cfg.std,
    )
    with torch.device("meta"):
        other = timm.create_model(name)
    (norm,) = {(m.eps, m.momentum) for m in other.modules() if isinstance(m, nn.BatchNorm2d)}
    arguments = found.model.architecture["args"]
    assert (arguments["bn_eps"], arguments["bn_momentum"]) == norm
    choices = found.report.choices
    for told in (
        f"epsilon {norm[0]:g}, momentum 0.1",
        "padding='torch'",
        "by their average",
        "output stride: 32",
        f"the way of timm's {name}.{cfg.tag}",
        "does not name its 5 classes",
    ):
        assert any(told in choice for choice in choices), told


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("num_classes", [0, 2])
@pytest.mark.parametrize("name", ["xception71", "xception65p"])
def test_sizes_come_from_the_tensors(name: str, num_classes: int, in_channels: int) -> None:
    model = imported(hollow(name, num_classes=num_classes, in_chans=in_channels)).model
    assert (model.num_classes, model.in_channels) == (num_classes, in_channels)
    assert model.preprocessing.channels == in_channels


def test_counts_of_batches_may_be_absent() -> None:
    """As in the files that timm publishes."""
    state = {n: t for n, t in hollow("xception41").items() if "num_batches_tracked" not in n}
    found = imported(state)
    assert any("does not count the batches" in choice for choice in found.report.choices)
    assert {there for there, _ in found.report.mapped} == set(state)


def test_other_names_are_not_this_dialect() -> None:
    names = ["blocks.0.0.conv_dw.weight", "xblocks.0.stack.conv1.conv_dw.weight"]
    tensors = {name: torch.zeros(1) for name in names}
    assert recognise(FileContents(kind="safetensors", tensors=tensors)) is None


def blocks_below(count: int, state: State) -> State:
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < count
    }


@pytest.mark.parametrize(
    "name, count, missing",
    [
        ("xception41", 12, r"blocks\.12\.stack\.conv1\.conv_dw\.weight"),
        ("xception65", 19, r"blocks\.19\."),
        ("xception71", 22, r"blocks\.22\."),
        ("xception71", 10, r"blocks\.10\."),
        ("xception65p", 17, r"blocks\.17\."),
    ],
)
def test_a_file_without_its_last_blocks_is_known_by_the_others(
    name: str, count: int, missing: str
) -> None:
    with pytest.raises(ValueError, match=f"lacks tensors that timm's {name} needs: {missing}"):
        imported(blocks_below(count, hollow(name)))


BROKEN: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        lambda s: {n: t for n, t in s.items() if n != "stem.1.conv.weight"},
        r"lacks tensors that timm's xception41 needs: stem\.1\.conv\.weight;",
    ),
    "left over": (
        lambda s: {**s, "decoder.weight": torch.zeros(1)},
        r"holds tensors that timm's xception41 does not have: decoder\.weight;",
    ),
    "a block too many": (
        lambda s: {
            **s,
            **{n.replace("s.12.", "s.13."): t for n, t in s.items() if n.startswith("blocks.12.")},
        },
        r"does not have: blocks\.13\.stack\.conv1\.conv_dw\.weight, .* and \d+ more;",
    ),
    "swapped axes": (
        lambda s: {**s, "blocks.0.stack.conv1.conv_pw.weight": torch.zeros(64, 128, 1, 1)},
        r"blocks\.0\.stack\.conv1\.conv_pw\.weight is 64x128x1x1, not 128x64x1x1;",
    ),
    "swapped axes of the last layer": (
        lambda s: {**s, "head.fc.weight": torch.zeros(2048, 5)},
        r"head\.fc\.weight is 2048x5, not 5x2048;",
    ),
    "NaN": (
        lambda s: {**s, "stem.0.bn.bias": torch.full((32,), float("nan"))},
        r"holds NaN or infinite weights in stem\.0\.bn\.bias;",
    ),
    "negative variance": (
        lambda s: {**s, "stem.0.bn.running_var": -torch.ones(32)},
        r"holds variances below zero in stem\.0\.bn\.running_var;",
    ),
    "two precisions": (
        lambda s: {**s, "head.fc.weight": s["head.fc.weight"].double()},
        r"mixes precisions: float32 \(stem\.0\.conv\.weight\) and float64 \(head\.fc\.weight\);",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line(case: str) -> None:
    breaks, expected = BROKEN[case]
    with pytest.raises(ValueError) as error:
        imported(breaks(hollow("xception41")))
    message = str(error.value)
    assert re.search(expected, message) and "\n" not in message, message


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("xception41", {"padding": "keras"}, r"has padding='keras'; timm's xception41 has padding"),
        ("xception65", {"bn_eps": 1e-5}, r"has bn_eps=1e-05; timm's xception65 has bn_eps=0\.001"),
        ("xception41p", {"bn_eps": 1e-3}, r"has bn_eps=0\.001; .* has bn_eps=1e-05 and would"),
        ("xception71", {"output_stride": 16}, r"has output_stride=16; .*; keep it as a model file"),
        ("xception_tiny", {}, r"is xception_tiny, not timm's xception41; keep it"),
    ],
)
def test_what_timm_would_compute_otherwise_is_not_written_for_it(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with torch.device("meta"):
        model = create_model(name, **arguments)
    assert isinstance(model, Classifier)
    with pytest.raises(ValueError, match=message):
        to_timm(model)


@pytest.mark.parametrize("name", NAMES)
def test_the_map_is_one_to_one(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert isinstance(model, Classifier)
    names = _COUNTERPARTS[name].names(model)
    assert len(set(names.values())) == len(names) == len(model.state_dict())
