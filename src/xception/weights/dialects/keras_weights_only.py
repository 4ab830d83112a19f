"""A classifier from a Keras file that holds weights alone.

Such a file does not say what its layers are, nor how they are connected. It can be read because
keras.applications.Xception has one order of layers, in which files of weights list them; everything
that the order cannot tell is chosen, and each choice reported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from xception.models import resolved_arguments
from xception.weights.dialects.keras_fill import (
    LayerWeights,
    build,
    fill,
    in_channels_of,
    is_state,
    left_over,
)
from xception.weights.dialects.keras_head import NO_CLASSES, HeadPart
from xception.weights.dialects.keras_inputs import Pictures, preprocessing_of
from xception.weights.dialects.keras_places import ArchivePlace, inner_layer
from xception.weights.dialects.keras_plan import PlannedLayer, in_keras_order, plan_of
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported, ImportReport
from xception.weights.skeleton import build_skeleton
from xception.weights.wording import quoted

_NETWORKS = ("xception", "xception_small", "xception_tiny")
_KINDS = {
    "conv2d": "Conv2D",
    "separable_conv2d": "SeparableConv2D",
    "batch_normalization": "BatchNormalization",
    "dense": "Dense",
}
_BODY_KINDS = ("Conv2D", "SeparableConv2D", "BatchNormalization")
_KINDS_BY_AXES = {  # axes of a layer's weights, in Keras's order
    (4,): "Conv2D", (4, 1): "Conv2D", (4, 4): "SeparableConv2D", (4, 4, 1): "SeparableConv2D",
    (1, 1, 1, 1): "BatchNormalization", (2,): "Dense", (2, 1): "Dense",
}  # fmt: skip
_NUMBERED = re.compile(r"(.+?)(?:_([0-9]{1,6}))?")
_NAMED = re.compile(r"block([0-9]{1,3})_(?:sep)?conv([0-9]{1,3})(?:_bn)?")
_GIVE_ALL = "give the file of the whole model (.keras, or .h5 with its configuration)"


@dataclass(frozen=True, slots=True)
class _Layer:
    """name: for messages and for order; tensors: names in the file, in Keras's order."""

    name: str
    tensors: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Found:
    """by_kind: layers of the network by Keras's class, in Keras's order; dense: the head's."""

    by_kind: defaultdict[str, list[_Layer]] = field(default_factory=lambda: defaultdict(list))
    dense: list[_Layer] = field(default_factory=list)


def recognise_weights(contents: FileContents, dialect: str) -> Imported:
    """The classifier in a Keras 3 .weights.h5, or in an .h5 file without configuration.

    Raises ValueError as `recognise` does.
    """
    tensors = contents.tensors
    found = _in_archive(tensors) if contents.kind != "keras h5" else _in_h5(tensors)
    name, plan = _network(found)
    layers = [_weights(kind, layer) for kind, layer in _in_order(plan, found)]
    head = _head(found.dense, tensors)
    arguments: dict[str, Any] = {
        "num_classes": 2 if head.binary else head.num_classes,
        "in_channels": in_channels_of(layers[0], tensors),
        "bn_eps": 1e-3,
        "bn_momentum": 0.01,
        **head.arguments,
    }
    model = build(name, arguments)
    layers += [
        LayerWeights(layer=node, kind="Dense", there=there, here=here)
        for node, there, here in _dense_weights(found.dense, head)
    ]
    mapped = fill(model, layers, tensors, binary=head.binary, without_bias=head.without_bias)
    preprocessing, choices = preprocessing_of(
        Pictures(), model.preprocessing, model.in_channels, model.minimum_size
    )
    model.preprocessing = preprocessing
    network = "keras.applications.Xception" if name == "xception" else name
    report = ImportReport(
        dialect=f"{dialect}: {name}",
        mapped=mapped,
        left_out=left_over(tensors, (there for there, _ in mapped), {}),
        choices=(
            f"the file holds weights alone: taken for the layers of {network} in Keras's order",
            "the file does not say how batch normalization is set: epsilon 0.001, momentum 0.99, "
            "Keras's defaults",
            *head.notes,
            *choices,
        ),
    )
    return Imported(model=model.eval(), report=report)


def _in_archive(tensors: Mapping[str, Tensor]) -> _Found:
    """By the groups of a Keras 3 file, which count the layers of a class."""
    places = ArchivePlace.outermost(tensors)
    models: defaultdict[str, dict[str, list[tuple[int, _Layer]]]] = defaultdict(dict)
    for group, names in places.groups.items():
        model, _, child = group.rpartition("/")
        parts = _NUMBERED.fullmatch(child)
        kind = _KINDS.get(parts[1]) if parts else None
        if kind is None:
            if is_state(group):
                continue
            raise ValueError(
                f"cannot be taken over: what its weights {quoted(group)} belong to cannot be told "
                f"without a configuration; {_GIVE_ALL}"
            )
        number = int(parts[2] or 0) if parts else 0
        models[model].setdefault(kind, []).append((number, _Layer(group, names)))
    bodies = [model for model, kinds in models.items() if "SeparableConv2D" in kinds]
    if len(bodies) != 1:
        raise ValueError(
            f"holds weights of {len(bodies)} models with separable convolutions, where one is "
            f"expected; {_GIVE_ALL}"
        )
    found = _Found()
    body = models[bodies[0]]
    heads = [model for model, kinds in models.items() if "Dense" in kinds]
    _check_head(
        len(heads),
        {k: len(v) for m, kinds in models.items() if m != bodies[0] for k, v in kinds.items()},
    )
    for kind in _BODY_KINDS:
        found.by_kind[kind] = _sorted(body.get(kind, []))
    for model in heads:
        found.dense.extend(_sorted(models[model]["Dense"]))
    return found


def _in_h5(tensors: Mapping[str, Tensor]) -> _Found:
    """By the listing of a Keras 2 file: layers of the outermost model in their order."""
    groups: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in tensors:
        layer = name.partition("/")[0]
        if not is_state(layer):
            groups[layer][inner_layer(layer, name)].append(name)
    found = _Found()
    inner = {layer: parts for layer, parts in groups.items() if len(parts) > 1}
    if len(inner) > 1:
        raise ValueError(
            f"holds weights of {len(inner)} models, where one is expected; {_GIVE_ALL}"
        )
    beside: dict[str, int] = {}
    for layer, parts in groups.items():
        for part, names in parts.items():
            kind = _KINDS_BY_AXES.get(tuple(tensors[name].dim() for name in names))
            if kind is None:
                raise ValueError(
                    f"cannot be taken over: what its weights {quoted(names[0])} belong to cannot "
                    f"be told without a configuration; {_GIVE_ALL}"
                )
            if kind == "Dense":
                found.dense.append(_Layer(layer, names))
            elif inner and layer not in inner:
                beside[kind] = beside.get(kind, 0) + 1
            else:
                found.by_kind[kind].append(_Layer(part if inner else layer, names))
    _check_head(1 if found.dense else 0, beside)
    if inner:  # there weights that are trained stand before the others: only names tell the order
        _sort_by_name(found)
    return found


def _sort_by_name(found: _Found) -> None:
    """Put the layers of Keras's Xception in order, of which all but the residual ones are named."""
    plan = in_keras_order(_plan("xception"))
    for kind in _BODY_KINDS:
        named: list[tuple[tuple[int, int], _Layer]] = []
        numbered: list[tuple[int, _Layer]] = []
        for layer in found.by_kind[kind]:
            name, rest = _NAMED.fullmatch(layer.name), _NUMBERED.fullmatch(layer.name)
            if name:
                named.append(((int(name[1]), int(name[2])), layer))
            elif rest and _KINDS.get(rest[1]) == kind:
                numbered.append((int(rest[2] or 0), layer))
            else:
                raise ValueError(
                    f"cannot be taken over: where its layer {quoted(layer.name)!r} stands cannot "
                    f"be told without a configuration; {_GIVE_ALL}"
                )
        named.sort(key=lambda pair: pair[0])
        numbered.sort(key=lambda pair: pair[0])
        residual = [".skip." in layer.path for layer in plan if layer.kind == kind]
        if sum(residual) == len(numbered) and len(residual) - sum(residual) == len(named):
            queues = (iter(named), iter(numbered))
            found.by_kind[kind] = [next(queues[is_residual])[1] for is_residual in residual]


def _network(found: _Found) -> tuple[str, list[PlannedLayer]]:
    """The network with as many layers of each class, and its plan in Keras's order."""
    own = {kind: len(found.by_kind[kind]) for kind in _BODY_KINDS}
    for name in _NETWORKS:
        plan = in_keras_order(_plan(name))
        wanted = {kind: sum(layer.kind == kind for layer in plan) for kind in _BODY_KINDS}
        if own == wanted:
            return name, plan
        more = own["BatchNormalization"] - wanted["BatchNormalization"]
        if more > 0 and all(own[kind] == wanted[kind] for kind in _BODY_KINDS[:2]):
            raise _unplaced({"BatchNormalization": more})
    plan = _plan(_NETWORKS[0])
    there, here = (
        ", ".join(f"{counts[kind]} {kind}" for kind in _BODY_KINDS)
        for counts in (own, {k: sum(layer.kind == k for layer in plan) for k in _BODY_KINDS})
    )
    raise ValueError(f"is not {_NETWORKS[0]}: it has {there} layers, {_NETWORKS[0]} has {here}")


def _plan(name: str) -> list[PlannedLayer]:
    return plan_of(build_skeleton({"name": name, "args": resolved_arguments(name)}))


def _in_order(plan: Iterable[PlannedLayer], found: _Found) -> Iterable[tuple[PlannedLayer, _Layer]]:
    queues = {kind: iter(found.by_kind[kind]) for kind in _BODY_KINDS}
    return [(layer, next(queues[layer.kind])) for layer in plan if layer.weights]


def _weights(planned: PlannedLayer, layer: _Layer) -> LayerWeights:
    return LayerWeights(
        layer=f"layer {quoted(layer.name)!r}",
        kind=planned.kind,
        there=layer.tensors,
        here=planned.weights,
    )


def _head(dense: Sequence[_Layer], tensors: Mapping[str, Tensor]) -> HeadPart:
    """Pooling, the Dense layers with ReLU between, and no more: what files mostly have."""
    head = HeadPart()
    if not dense:
        head.notes.append(f"{NO_CLASSES}; averaged")
        return head
    units = [_units(layer, tensors) for layer in dense]
    head.arguments["fc_units"] = units[:-1]
    head.notes.append("the file does not say how the feature map is pooled: averaged")
    if units[:-1]:
        head.notes.append("the file does not say what stands between its Dense layers: ReLU")
    if len(dense[-1].tensors) == 1:
        head.without_bias = ("head.fc.bias",)
        head.notes.append("its last layer has no bias: zeros")
    head.end(units[-1], "unsaid")
    if not head.binary:
        head.notes.append("the file does not say what follows its last layer: logits come out")
    return head


def _units(layer: _Layer, tensors: Mapping[str, Tensor]) -> int:
    shape = tensors[layer.tensors[0]].shape
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"does not fit its network: {quoted(layer.name)!r} holds no Dense kernel")
    return int(shape[1])


def _dense_weights(
    dense: Sequence[_Layer], head: HeadPart
) -> Iterable[tuple[str, Sequence[str], tuple[str, ...]]]:
    for index, layer in enumerate(dense):
        is_last = index == len(dense) - 1
        path = "head.fc" if is_last else f"head.fc_layers.{2 * index}"
        here = (f"{path}.weight", f"{path}.bias")
        yield (
            f"layer {quoted(layer.name)!r}",
            layer.tensors,
            here[:1] if is_last and head.without_bias else here,
        )


def _check_head(models_with_dense: int, beside: Mapping[str, int]) -> None:
    if models_with_dense > 1:
        raise ValueError(
            f"cannot be taken over: it has Dense layers in {models_with_dense} models, whose order "
            f"weights alone do not tell; {_GIVE_ALL}"
        )
    others = {kind: count for kind, count in beside.items() if kind != "Dense"}
    if others:
        raise _unplaced(others)


def _unplaced(counts: Mapping[str, int]) -> ValueError:
    named = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return ValueError(
        f"cannot be taken over: it has {named} beside the network's layers, whose place in the "
        f"head weights alone do not tell; {_GIVE_ALL}"
    )


def _sorted(layers: Iterable[tuple[int, _Layer]]) -> list[_Layer]:
    return [layer for _, layer in sorted(layers, key=lambda pair: pair[0])]
