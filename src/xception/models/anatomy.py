"""A network as its figure shows it: flows, blocks, the layers of each, residual connections.

Read off the modules themselves, so that every argument of `create_model` shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from xception.models.aligned_units import NormalizedSeparableConv2d
from xception.models.classifier import Classifier, FeatureExtractor
from xception.models.meta_twin import meta_picture, meta_twin
from xception.nn import MaxPool2d, SegmentedConv2d, SeparableConv2d

TIMES = "\N{MULTIPLICATION SIGN}"
CONVOLUTION, SEPARABLE, ACTIVATION = "convolution", "separable convolution", "activation"
POOLING, CLASSIFIER, NORMALIZATION = "pooling", "classifier", "normalization"

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One layer: what it says in the figure, and its kind (one of the constants above)."""

    text: str
    kind: str
    detail: str = ""  # a second, smaller line


_BN = Step("BN", NORMALIZATION)  # of feature maps


@dataclass(frozen=True, slots=True)
class Block:
    """Layers one after the other, and what runs beside them."""

    lead: tuple[Step, ...]  # before the residual connection starts
    steps: tuple[Step, ...]
    skip: tuple[Step, ...] | None  # layers on the residual connection; None: there is none
    input_shape: tuple[int, ...]  # channels, height, width
    output_shape: tuple[int, ...]
    repeats: int = 1  # how many equal blocks stand here in a row


@dataclass(frozen=True, slots=True)
class Flow:
    """One column of the figure."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The three flows, and where batch normalization stands that the figure does not show."""

    flows: tuple[Flow, ...]
    note: str


def anatomy(model: nn.Module, size: int | tuple[int, int] | None = None) -> Anatomy:
    """What the figure of `model` (a network or its feature extractor) shows at this picture size.

    size: side or (height, width) in pixels; by default `model.preprocessing.size`
    Raises ValueError for other modules.
    """
    network = model.network if isinstance(model, FeatureExtractor) else model
    if not isinstance(network, Classifier):
        raise ValueError(
            f"{type(model).__name__} has no stages to draw; give a network of create_model"
        )
    twin = meta_twin(model)
    body = twin.network if isinstance(twin, FeatureExtractor) else twin
    assert isinstance(body, Classifier)
    blocks = {
        name: block for name, block in _blocks(body, twin, meta_picture(network, size)) if block
    }
    normalization_first = any((*block.lead, *block.steps)[0] == _BN for block in blocks.values())
    tidy = _merge_normalization if normalization_first else _drop_normalization
    columns: dict[str, list[Block]] = {"Entry flow": [], "Middle flow": [], "Exit flow": []}
    for name, block in blocks.items():
        flow = name.split(".")[0].removesuffix("_flow")
        title = {"stem": "Entry", "tail": "Exit", "head": "Exit"}.get(flow, flow.capitalize())
        tidied = replace(
            block,
            lead=tidy(block.lead),
            steps=tidy(block.steps),
            skip=None if block.skip is None else tidy(block.skip),
        )
        column = columns[f"{title} flow"]
        if column and _only_activates(column[-1]) and tidied.skip is None:
            tidied = replace(tidied, steps=(*column.pop().steps, *tidied.steps))
        column.append(tidied)
    return Anatomy(
        flows=tuple(Flow(t, tuple(_folded(column))) for t, column in columns.items() if column),
        note=_note(body, normalization_first),
    )


def _blocks(
    body: Classifier, twin: nn.Module, picture: Tensor
) -> Iterator[tuple[str, Block | None]]:
    """Every stage and the head as a block, without those that do nothing."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def note_shapes(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            shapes[name] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))

        return hook

    parts = [*body.stages(), ("head", body.head)]
    for name, part in parts:
        part.register_forward_hook(note_shapes(name))
    with torch.no_grad():
        if isinstance(twin, FeatureExtractor):  # its last stage may end inside
            for _, stage in body.stages():
                picture = stage(picture)
        else:
            twin(picture)
    for name, part in parts:
        if name in shapes:
            yield name, _block(part, *shapes[name])


def _block(
    part: nn.Module, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> Block | None:
    children = dict(part.named_children())
    skip_module = children.pop("skip", None)
    lead: list[Step] = []
    steps: list[Step] = []
    if skip_module is not None:
        for name in list(children):
            if name == "units":
                break
            lead += _steps(children.pop(name))
        for child in children.values():
            steps += _steps(child)
    else:
        steps = _steps(part)
    if not lead and not steps:
        return None
    skip = None if skip_module is None else tuple(_steps(skip_module))
    return Block(tuple(lead), tuple(steps), skip, input_shape, output_shape)


def _steps(module: nn.Module) -> list[Step]:
    step = _step(module)
    if step is not None:
        last = getattr(module, "pointwise_act", None)
        return [step] if last is None else [step, *_steps(last)]
    return [step for child in module.children() for step in _steps(child)]


def _step(module: nn.Module) -> Step | None:
    """The layer that stands for `module` as a whole; None when its children are to be asked."""
    if isinstance(module, SeparableConv2d):
        text = _convolution_text("SeparableConv", module.out_channels, module.depthwise)
        return Step(text, SEPARABLE, _between(module.intermediate_activation))
    if isinstance(module, SegmentedConv2d):
        run = module.spatial.runs[0]
        text = _convolution_text("SegmentedConv", module.out_channels, run)
        segments = f"{module.segments} segment" + ("s" if module.segments > 1 else "")
        between = _between(module.intermediate_activation)
        return Step(text, SEPARABLE, f"{segments}, {between}" if between else segments)
    if isinstance(module, NormalizedSeparableConv2d):
        text = _convolution_text("SeparableConv", module.pointwise.out_channels, module.depthwise)
        return Step(text, SEPARABLE, _between(module.depthwise_act))
    if isinstance(module, nn.Conv2d):
        return Step(_convolution_text("Conv", module.out_channels, module), CONVOLUTION)
    if isinstance(module, MaxPool2d):
        return Step(f"MaxPool 3{TIMES}3" + _strides(module.stride, module.dilation), POOLING)
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        kind = "average" if isinstance(module, nn.AdaptiveAvgPool2d) else "max"
        return Step(f"Global {kind} pool", POOLING)
    if isinstance(module, nn.BatchNorm2d):
        return _BN
    if isinstance(module, nn.BatchNorm1d):  # of the head, where it follows no convolution
        return Step("Batch normalization", NORMALIZATION)
    if isinstance(module, _ACTIVATIONS):
        return Step(type(module).__name__, ACTIVATION)
    if isinstance(module, nn.Dropout) and module.p > 0:
        return Step(f"Dropout {module.p:g}", ACTIVATION)
    if isinstance(module, nn.Linear):
        return Step(f"Linear {module.out_features}", CLASSIFIER)
    return None


def _convolution_text(kind: str, channels: int, spatial: nn.Module) -> str:
    assert isinstance(spatial, nn.Conv2d)
    height, width = spatial.kernel_size
    strides = _strides(spatial.stride[0], spatial.dilation[0])
    return f"{kind} {channels}, {height}{TIMES}{width}{strides}"


def _strides(stride: int, dilation: int) -> str:
    return (f", stride {stride}" if stride > 1 else "") + (
        f", dilation {dilation}" if dilation > 1 else ""
    )


def _between(activation: nn.Module) -> str:
    is_none = isinstance(activation, nn.Identity)
    return "" if is_none else f"{type(activation).__name__} between its two steps"


def _only_activates(block: Block) -> bool:
    return block.skip is None and all(step.kind == ACTIVATION for step in block.steps)


def _drop_normalization(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(step for step in steps if step != _BN)


def _merge_normalization(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """ "BN" and "ReLU" become one step, as they stand together before a convolution."""
    merged: list[Step] = []
    for step in steps:
        if merged and merged[-1] == _BN and step.kind == ACTIVATION:
            merged[-1] = Step(f"{merged[-1].text}, {step.text}", ACTIVATION)
        else:
            merged.append(step)
    return tuple(merged)


def _folded(blocks: list[Block]) -> Iterator[Block]:
    for block, equal in groupby(blocks):
        yield replace(block, repeats=len(list(equal)))


def _note(body: Classifier, normalization_first: bool) -> str:
    if normalization_first:
        return "BN: batch normalization"
    if any(isinstance(m, NormalizedSeparableConv2d) for m in body.modules()):
        return (
            "Batch normalization (not shown) follows every convolution, "
            "and the depthwise step of every separable one"
        )
    but_the_last = isinstance(getattr(body.head, "fc", None), nn.Conv2d)
    return "Batch normalization (not shown) follows every convolution" + (
        " but the last" if but_the_last else ""
    )
