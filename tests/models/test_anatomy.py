"""What the figure of a network shows, read off its modules."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from xception.models import create_model, list_models, model_entry
from xception.models.anatomy import TIMES, Anatomy, Block, Step, anatomy


def of(name: str, size: Any = None, **arguments: Any) -> Anatomy:
    with torch.device("meta"):
        return anatomy(create_model(name, **arguments), size)


def texts(block: Block) -> list[str]:
    return [plain(step) for step in (*block.lead, *block.steps)]


def plain(step: Step) -> str:
    return step.text.replace(TIMES, "x")


def test_figure_5() -> None:
    content = of("xception")
    assert [flow.title for flow in content.flows] == ["Entry flow", "Middle flow", "Exit flow"]
    entry, middle, exit_ = (flow.blocks for flow in content.flows)
    assert texts(entry[0]) == ["Conv 32, 3x3, stride 2", "ReLU", "Conv 64, 3x3", "ReLU"]
    assert entry[0].input_shape == (3, 299, 299) and entry[0].output_shape == (64, 147, 147)
    sep128 = "SeparableConv 128, 3x3"
    assert texts(entry[1]) == [sep128, "ReLU", sep128, "MaxPool 3x3, stride 2"]
    assert entry[1].skip is not None
    assert [plain(s) for s in entry[1].skip] == ["Conv 128, 1x1, stride 2"]
    assert texts(entry[3])[0] == "ReLU" and entry[3].output_shape == (728, 19, 19)
    assert len(middle) == 1 and middle[0].repeats == 8 and middle[0].skip == ()
    assert texts(middle[0]) == ["ReLU", "SeparableConv 728, 3x3"] * 3
    assert texts(exit_[1]) == [
        "SeparableConv 1536, 3x3", "ReLU", "SeparableConv 2048, 3x3", "ReLU",
    ]  # fmt: skip
    assert texts(exit_[2]) == ["Global average pool", "Linear 1000"]
    assert exit_[2].output_shape == (1000,)
    assert content.note == "Batch normalization (not shown) follows every convolution"


def test_arguments_show() -> None:
    content = of(
        "xception_tiny", num_classes=10, segments=4, intermediate_activation="elu",
        residual=False, fc_units=(64,), dropout=0.25,
    )  # fmt: skip
    blocks = [block for flow in content.flows for block in flow.blocks]
    assert all(block.skip is None for block in blocks)
    step = blocks[1].steps[0]
    assert (plain(step), step.detail) == (
        "SegmentedConv 64, 3x3",
        "4 segments, ELU between its two steps",
    )
    assert texts(blocks[-1]) == [
        "ReLU", "Global average pool", "Linear 64", "ReLU", "Dropout 0.25", "Linear 10",
    ]  # fmt: skip


def test_output_stride_shows_as_dilation() -> None:
    content = of("xception", output_stride=8)
    middle, exit_ = content.flows[1].blocks[0], content.flows[2].blocks[0]
    assert texts(middle)[1] == "SeparableConv 728, 3x3, dilation 2"
    assert texts(exit_)[-1] == "MaxPool 3x3, dilation 2"
    assert exit_.skip is not None and plain(exit_.skip[0]) == "Conv 1024, 1x1"


def test_a_convolution_to_the_classes() -> None:
    content = of("mini_xception", num_classes=7)
    assert [flow.title for flow in content.flows] == ["Entry flow", "Exit flow"]
    block, head = content.flows[1].blocks
    assert texts(block) == [
        "SeparableConv 128, 3x3", "ReLU", "SeparableConv 128, 3x3", "MaxPool 3x3, stride 2",
    ]  # fmt: skip
    assert texts(head) == ["Conv 7, 3x3", "Global average pool"] and head.output_shape == (7,)
    assert content.note.endswith("follows every convolution but the last")
    assert of("mini_xception", features_only=True).note.endswith("follows every convolution")


def test_pre_activation_stands_before_the_residual_connection() -> None:
    content = of("xception41p")
    block = content.flows[0].blocks[1]
    assert [plain(s) for s in block.lead] == ["BN, ReLU"]
    assert texts(block)[1:] == [
        "SeparableConv 128, 3x3", "BN, ReLU", "SeparableConv 128, 3x3", "BN, ReLU",
        "SeparableConv 128, 3x3, stride 2",
    ]  # fmt: skip
    assert content.note == "BN: batch normalization"


def test_activation_inside_the_last_block_of_the_aligned() -> None:
    last = of("xception41").flows[2].blocks[1]
    assert texts(last)[:2] == ["SeparableConv 1536, 3x3", "ReLU"]
    assert {s.detail for s in last.steps if "Separable" in s.text} == {"ReLU between its two steps"}


@pytest.mark.parametrize("name", list_models())
def test_shapes_of_one_block_are_those_of_the_next(name: str) -> None:
    content = of(name, (96, 128))
    blocks = [block for flow in content.flows for block in flow.blocks]
    assert blocks[0].input_shape == (model_entry(name).preprocessing.channels, 96, 128)
    for before, after in pairwise(blocks):
        assert before.output_shape == after.input_shape
    assert blocks[-1].output_shape == (1000,)


@pytest.mark.parametrize("name", ["xception", "xception41", "xception65p"])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_a_feature_extractor_ends_at_its_last_map(name: str, index: int) -> None:
    with torch.device("meta"):
        extractor = create_model(name, features_only=True, out_indices=(index,)).eval()
        (feature,) = extractor(torch.empty(1, 3, 299, 299))
    last = anatomy(extractor).flows[-1].blocks[-1]
    assert last.output_shape == tuple(feature.shape[1:])


def test_other_modules_have_no_figure() -> None:
    with pytest.raises(ValueError, match="Conv2d has no stages to draw"):
        anatomy(nn.Conv2d(3, 4, 1), 8)
