"""A classifier of ours from a Keras file: `recognise`.

Where the file has a configuration, its graph is compared layer by layer with those of our networks;
the one that it equals is built, with whatever head stands on it. Files of weights alone are
`keras_weights_only`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xception.models import resolved_arguments
from xception.weights.dialects.keras_fill import (
    LayerWeights,
    build,
    fill,
    in_channels_of,
    left_over,
)
from xception.weights.dialects.keras_graph import Graph, read_graph
from xception.weights.dialects.keras_head import HeadPart, convolution_head, pooled_head
from xception.weights.dialects.keras_inputs import Pictures, preprocessing_of, read_pictures
from xception.weights.dialects.keras_match import Match, Mismatch, likeness, match, torch_momentum
from xception.weights.dialects.keras_plan import PlannedLayer, plan_of
from xception.weights.dialects.keras_weights_only import recognise_weights
from xception.weights.files.contents import FileContents
from xception.weights.header import quoted
from xception.weights.imported import Imported, ImportReport
from xception.weights.skeleton import build_skeleton

NETWORKS: Mapping[str, Callable[[Graph, int], HeadPart]] = {  # and how their head is read
    "xception": pooled_head,
    "xception_small": pooled_head,
    "xception_tiny": pooled_head,
    "xception_tiny_r4": pooled_head,
    "mini_xception": convolution_head,
}
_KINDS = {
    "keras archive": "Keras archive",
    "keras weights": "Keras weights",
    "keras h5": "Keras h5",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Body:
    """The network that the graph is, up to its feature map."""

    name: str
    plan: list[PlannedLayer]
    match: Match


def recognise(contents: FileContents) -> Imported:
    """The classifier in a Keras file, in eval mode on the CPU, in the file's precision.

    Raises ValueError, the end of a sentence that begins with the file's name, that says which layer
    or weight cannot be taken over and what to do.
    """
    if contents.kind not in _KINDS:
        raise ValueError(f"is a {contents.kind} file, not one of Keras")
    dialect = _KINDS[contents.kind]
    if contents.version is not None:
        dialect += f" (Keras {quoted(contents.version, 20)})"
    if contents.config is None:
        return recognise_weights(contents, dialect)
    graph = read_graph(contents)
    pictures = read_pictures(graph, contents.tensors)
    body = _body(graph, pictures.last)
    head = NETWORKS[body.name](graph, body.match.output)
    _check_all_used(graph, pictures, body, head)
    return _built(contents, graph, pictures, body, head, dialect)


def _body(graph: Graph, start: int) -> _Body:
    """The network that fits; the complaint is that of the one that is most like the graph."""
    plans = {
        name: plan_of(build_skeleton({"name": name, "args": resolved_arguments(name)}))
        for name in NETWORKS
    }
    complaint: Mismatch | None = None
    for name in sorted(plans, key=lambda name: -likeness(graph, plans[name])):
        try:
            found = match(graph, plans[name], start, name)
            return _Body(name=name, plan=plans[name], match=found)
        except Mismatch as mismatch:
            complaint = complaint or mismatch
    assert complaint is not None
    raise complaint


def _check_all_used(graph: Graph, pictures: Pictures, body: _Body, head: HeadPart) -> None:
    used = {*pictures.used, *body.match.nodes, *head.used}
    for index, node in enumerate(graph.nodes):
        if index not in used:
            raise ValueError(
                f"is not {body.name}: it has a further {node} ({node.kind}) beside its layers"
            )


def _built(
    contents: FileContents,
    graph: Graph,
    pictures: Pictures,
    body: _Body,
    head: HeadPart,
    dialect: str,
) -> Imported:
    layers = [
        LayerWeights(
            layer=str(graph.nodes[index]),
            kind=layer.kind,
            there=graph.nodes[index].tensors,
            here=layer.weights,
        )
        for layer, index in zip(body.plan, body.match.nodes)
        if layer.weights
    ]
    layers += [
        LayerWeights(layer=str(node), kind=node.kind, there=node.tensors, here=here)
        for node, here in head.weights
    ]
    arguments = {
        "num_classes": 2 if head.binary else head.num_classes,
        "in_channels": in_channels_of(layers[0], contents.tensors),
        "bn_eps": body.match.epsilon,
        "bn_momentum": torch_momentum(body.match.momentum),
        **head.arguments,
    }
    model = build(body.name, arguments)
    mapped = fill(
        model, layers, contents.tensors, binary=head.binary, without_bias=head.without_bias
    )
    preprocessing, choices = preprocessing_of(
        pictures, model.preprocessing, model.in_channels, model.minimum_size
    )
    model.preprocessing = preprocessing
    statistics = {
        name: "became the preprocessing"
        for index in pictures.used
        for name in graph.nodes[index].tensors
    }
    report = ImportReport(
        dialect=f"{dialect}: {body.name}",
        mapped=mapped,
        left_out=left_over(contents.tensors, (there for there, _ in mapped), statistics),
        choices=(*pictures.notes, *head.notes, *choices),
    )
    return Imported(model=model.eval(), report=report)
