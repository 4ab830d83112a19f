"""A classifier of ours from a Keras file: `recognise`.

Where the file has a configuration, its graph is compared layer by layer with those of our networks;
the one that it equals is built, with whatever head stands on it. Files of weights alone are
`keras_weights_only`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from xception.models import resolved_arguments
from xception.weights.description import METADATA_KEY, ModelDescription
from xception.weights.dialects.keras_fill import (
    LayerWeights,
    build,
    fill,
    in_channels_of,
    left_over,
)
from xception.weights.dialects.keras_graph import Graph, UnknownLayer, read_graph
from xception.weights.dialects.keras_head import (
    HeadPart,
    convolution_head,
    pooled_head,
    written_out,
)
from xception.weights.dialects.keras_inputs import Pictures, preprocessing_of, read_pictures
from xception.weights.dialects.keras_match import Match, Mismatch, match, torch_momentum
from xception.weights.dialects.keras_plan import PlannedLayer, plan_of
from xception.weights.dialects.keras_survey import is_like, likeness, survey, told_apart
from xception.weights.dialects.keras_weights_only import recognise_weights
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported, ImportReport
from xception.weights.skeleton import build_skeleton
from xception.weights.wording import quoted

NETWORKS: Mapping[str, Callable[[Graph, int], HeadPart]] = {  # and how their head is read
    "xception": pooled_head,
    "xception_small": pooled_head,
    "xception_tiny": pooled_head,
    "xception41": pooled_head,
    "xception65": pooled_head,
    "xception71": pooled_head,
    "xception41p": pooled_head,
    "xception65p": pooled_head,
    "mini_xception": convolution_head,
}
_HEAD_ARGUMENTS = ("pooling", "fc_units", "head_layers", "dropout")
_KINDS = {
    "keras archive": "Keras archive",
    "keras weights": "Keras weights",
    "keras h5": "Keras h5",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A network to compare with. arguments: those of `create_model` that are not its defaults."""

    name: str
    arguments: Mapping[str, Any]
    plan: list[PlannedLayer]


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
    candidates = _candidates(contents)
    try:
        graph = read_graph(contents)
        pictures = read_pictures(graph, contents.tensors)
        network, found = _network(graph, pictures.last, candidates)
    except (Mismatch, UnknownLayer):
        there = survey(contents.config)
        if any(is_like(there, candidate.plan) for candidate in candidates):
            raise
        paper = next(c.plan for c in candidates if c.name == "xception")
        raise ValueError(told_apart(there, paper, "keras.applications.Xception")) from None
    head = NETWORKS[network.name](graph, found.output)
    _check_all_used(graph, network.name, {*pictures.used, *found.nodes, *head.used})
    return _built(contents, graph, pictures, network, found, head, dialect)


def _candidate(name: str, arguments: Mapping[str, Any]) -> _Candidate:
    skeleton = build_skeleton({"name": name, "args": resolved_arguments(name, **arguments)})
    return _Candidate(name=name, arguments=arguments, plan=plan_of(skeleton))


@cache
def _known() -> tuple[_Candidate, ...]:
    return tuple(_candidate(name, {}) for name in NETWORKS)


def _noted(contents: FileContents) -> list[_Candidate]:
    """The network that a file of our own export names, which may have any arguments.

    The note may be of another network, or anything at all: it counts where the layers agree.
    """
    note = contents.extra.get(METADATA_KEY)
    if note is None:
        return []
    try:
        architecture = ModelDescription.from_json(note).architecture
        if architecture["name"] in NETWORKS:
            return [_candidate(architecture["name"], architecture["args"])]
    except (TypeError, ValueError):
        pass
    return []


def _candidates(contents: FileContents) -> list[_Candidate]:
    """The networks that the file can be: first what it says itself, then the most like it."""
    there = survey(contents.config)
    known = sorted(_known(), key=lambda candidate: -likeness(there, candidate.plan))
    return [*_noted(contents), *known]


def _network(
    graph: Graph, start: int, candidates: Sequence[_Candidate]
) -> tuple[_Candidate, Match]:
    """The network that fits; else the complaint is that of the first."""
    complaint: Mismatch | None = None
    for candidate in candidates:
        try:
            return candidate, match(graph, candidate.plan, start, candidate.name)
        except Mismatch as mismatch:
            complaint = complaint or mismatch
    assert complaint is not None
    raise complaint


def _check_all_used(graph: Graph, network: str, used: set[int]) -> None:
    for index, node in enumerate(graph.nodes):
        if index not in used:
            raise ValueError(
                f"is not {network}: it has a further {node} ({node.kind}) beside its layers"
            )


def _built(
    contents: FileContents,
    graph: Graph,
    pictures: Pictures,
    network: _Candidate,
    found: Match,
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
        for layer, index in zip(network.plan, found.nodes)
        if layer.weights
    ]
    layers += [
        LayerWeights(layer=str(node), kind=node.kind, there=node.tensors, here=here)
        for node, here in head.weights
    ]
    if network.arguments.get("num_classes") == 1 == head.num_classes:
        head.one_output_as_it_is()
    arguments = {
        **_with_head(network.arguments, head),
        "num_classes": 2 if head.binary else head.num_classes,
        "in_channels": in_channels_of(layers[0], contents.tensors),
        "bn_eps": found.epsilon,
        "bn_momentum": torch_momentum(found.momentum),
    }
    model = build(network.name, arguments)
    mapped = fill(
        model, layers, contents.tensors, binary=head.binary, without_bias=head.without_bias
    )
    model.preprocessing, choices = preprocessing_of(
        pictures, model.preprocessing, model.in_channels, model.minimum_size
    )
    statistics = {
        name: "became the preprocessing"
        for index in pictures.used
        for name in graph.nodes[index].tensors
    }
    report = ImportReport(
        dialect=f"{dialect}: {network.name}",
        mapped=mapped,
        left_out=left_over(contents.tensors, (there for there, _ in mapped), statistics),
        choices=(*pictures.notes, *head.notes, *choices),
    )
    return Imported(model=model.eval(), report=report, takes_raw=pictures.scale is not None)


def _with_head(arguments: Mapping[str, Any], head: HeadPart) -> dict[str, Any]:
    """The network's arguments with the head's, left as noted where they say the same."""
    if arguments and written_out(arguments) == written_out(head.arguments):
        return dict(arguments)
    body = {name: value for name, value in arguments.items() if name not in _HEAD_ARGUMENTS}
    return {**body, **head.arguments}
