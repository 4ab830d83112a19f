"""A Keras configuration as one flat graph of layers, models inside models opened.

Nothing of a file is run: classes are names to compare, and what is not on the lists below is one
clear error. Sizes and nesting are bounded, cycles and layers used twice refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xception.weights.dialects.keras_activation import LAYERS as ACTIVATIONS
from xception.weights.dialects.keras_activation import LINEAR, activation_text, layer_text
from xception.weights.dialects.keras_call import (
    CONTAINERS,
    TENSOR,
    Call,
    Entry,
    endpoint,
    entry_of,
    shown,
)
from xception.weights.dialects.keras_places import (
    ArchivePlace,
    LayerNamePlace,
    Place,
    check_distinct,
)
from xception.weights.files.contents import FileContents
from xception.weights.wording import quoted

MAX_LAYERS = 4_000  # of all models in a file together; Keras's Xception has 132
MAX_NESTING = 8  # models inside models

CONVOLUTIONS = frozenset({"Conv2D", "DepthwiseConv2D", "SeparableConv2D"})
OPERATIONS = frozenset(
    {"TrueDivide", "Divide", "Subtract", "Multiply", "Add", "TFOpLambda", "Cast"}
)
_KNOWN = frozenset(
    {
        "BatchNormalization", "MaxPooling2D", "ZeroPadding2D", "Add", "InputLayer", "Dense",
        "Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Rescaling",
        "Normalization", "Resizing",
    }
) | CONVOLUTIONS | ACTIVATIONS | OPERATIONS  # fmt: skip
RANDOM = frozenset(  # they do nothing outside training
    {
        "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast",
        "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur",
        "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization",
        "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
        "RandomTranslation", "RandomZoom", "RandAugment", "AugMix", "GaussianNoise",
    }
)  # fmt: skip
_PICTURES = RANDOM | {"Resizing"}  # Keras 3 writes training=True for them, whatever was asked


class UnknownLayer(ValueError):
    """A layer of a class that no network here has; the text names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One layer. What a layer activates by itself is a node of its own after it.

    name: as the file has it, after the models around it ("xception/block1_conv1")
    kind: Keras's class; "Activation" for every layer that only activates
    config: the layer's; of an "Activation" {"activation": see `activation_text`}
    inputs: indices of the nodes it reads
    operands, options: see `Call`
    tensors: names in the file, in Keras's order
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: tuple[int, ...]
    operands: tuple[object, ...] = (TENSOR,)
    options: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "input" if self.kind == "InputLayer" else f"layer {quoted(self.name)!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """nodes: in an order in which they can be computed; the first is the input.

    output: index of the node whose value the model gives
    readers: for each node the indices of those that read it
    input_shape: height, width, channels as far as the file says
    """

    nodes: Sequence[Node]
    output: int
    readers: Sequence[Sequence[int]]
    input_shape: tuple[int | None, int | None, int | None]


def read_graph(contents: FileContents) -> Graph:
    """The graph of a file that has a configuration.

    Raises ValueError naming the layer that is unknown, used twice, missing or not connected.
    """
    model = _outermost(contents.config)
    entries = _entries(model)
    place: Place
    if contents.kind == "keras h5":
        place = LayerNamePlace.outermost(contents.tensors, [entry.name for entry in entries])
    else:
        place = ArchivePlace.outermost(contents.tensors)
    reader = _Reader()
    output = reader.model(model, 0, place, "", 0)
    readers: list[list[int]] = [[] for _ in reader.nodes]
    for index, node in enumerate(reader.nodes):
        for source in dict.fromkeys(node.inputs):
            readers[source].append(index)
    loose = [i for i, found in enumerate(readers) if not found and i != output]
    if loose:
        raise ValueError(
            f"cannot be taken over: its {reader.nodes[loose[0]]} leads nowhere; the networks here "
            "have one output"
        )
    return Graph(
        nodes=tuple(reader.nodes),
        output=output,
        readers=readers,
        input_shape=reader.input_shape,
    )


class _Reader:
    """Collects nodes; node 0 is the picture."""

    def __init__(self) -> None:
        self.nodes = [Node(name="the input", kind="InputLayer", config={}, inputs=())]
        self.input_shape: tuple[int | None, int | None, int | None] = (None, None, None)
        self._count = 0

    def model(self, model: Entry, source: int, place: Place, path: str, depth: int) -> int:
        """Add the layers of `model` applied to node `source`; the index of its output."""
        if depth > MAX_NESTING:
            raise ValueError(
                f"cannot be taken over: its models lie more than {MAX_NESTING} deep in each other"
            )
        entries = _entries(model)
        self._count += len(entries)
        if self._count > MAX_LAYERS:
            raise ValueError(f"has more than {MAX_LAYERS:,} layers, more than any network here")
        places = {e.name: p for e, p in zip(entries, place.inside(entries))}
        if model.kind == "Sequential":
            self._note_shape(model.config.get("build_input_shape"))
            for entry in entries:
                source = self._add(entry, (source,), None, places[entry.name], path, depth)
            return source
        first = endpoint(model.config.get("input_layers"), "input")
        last = endpoint(model.config.get("output_layers"), "output")
        outputs: dict[str, int] = {}
        for entry, call in _in_order(entries):
            sources = tuple(outputs[name] for name in call.inputs) if call else (source,)
            if call is None and entry.name != first:
                raise ValueError(
                    f"cannot be taken over: its layer {quoted(entry.name)!r} is a second input; "
                    "the networks here have one"
                )
            outputs[entry.name] = self._add(entry, sources, call, places[entry.name], path, depth)
        for name in (first, last):
            if name not in outputs:
                raise ValueError(f"is damaged: it has no layer {quoted(name)!r}, but refers to one")
        return outputs[last]

    def _add(
        self,
        entry: Entry,
        sources: tuple[int, ...],
        call: Call | None,
        place: Place,
        path: str,
        depth: int,
    ) -> int:
        name = path + entry.name
        kind = entry.kind
        if kind == "InputLayer" or sources == (0,):
            self._note_shape(entry.config.get("batch_shape", entry.config.get("batch_input_shape")))
        if kind == "InputLayer":
            return sources[0]
        options = call.options if call else {}
        if kind in CONTAINERS:
            _check_options(name, options)
            if len(sources) != 1:
                raise ValueError(
                    f"cannot be taken over: its model {quoted(name)!r} has several inputs"
                )
            return self.model(entry, sources[0], place, f"{name}/", depth + 1)
        if kind not in _KNOWN and kind not in RANDOM:
            raise UnknownLayer(
                f"cannot be taken over: its layer {quoted(name)!r} is {_unknown(kind)}"
            )
        if kind not in OPERATIONS | _PICTURES:
            _check_options(name, options)
        try:
            if kind in ACTIVATIONS:
                return self._activate(name, layer_text(kind, entry.config), sources)
            activation = LINEAR
            if kind in CONVOLUTIONS or kind == "Dense":
                activation = activation_text(entry.config.get("activation"))
        except ValueError as error:
            raise ValueError(f"cannot be taken over: its layer {quoted(name)!r} {error}") from None
        self.nodes.append(
            Node(
                name=name,
                kind=kind,
                config=entry.config,
                inputs=sources,
                operands=call.operands if call else (TENSOR,),
                options=options,
                tensors=tuple(place.tensors()),
            )
        )
        return self._activate(name, activation, (len(self.nodes) - 1,))

    def _activate(self, name: str, activation: str, sources: tuple[int, ...]) -> int:
        if activation == LINEAR and len(sources) == 1:
            return sources[0]
        config = {"activation": activation}
        self.nodes.append(Node(name=name, kind="Activation", config=config, inputs=sources))
        return len(self.nodes) - 1

    def _note_shape(self, shape: Any) -> None:
        """The outermost model says it first; what it leaves open one inside may say."""
        seen = any(node.kind in CONVOLUTIONS for node in self.nodes)  # no picture after that
        if seen or not isinstance(shape, list | tuple) or len(shape) != 4:
            return
        sizes = [size if type(size) is int and size > 0 else None for size in shape[1:]]
        known = [old if old is not None else new for old, new in zip(self.input_shape, sizes)]
        self.input_shape = (known[0], known[1], known[2])


def _unknown(kind: str) -> str:
    """What a layer of this class is, and what to do about it."""
    if kind == "Lambda":
        return (
            "a Lambda: Python code, which is never run; save the model without it, or with a "
            "Rescaling layer where it scales pictures"
        )
    article = "an" if kind[:1] in tuple("AEIOU") else "a"
    return f"{article} {quoted(kind)}, which no network here has; save the model without it"


def _outermost(config: Mapping[str, Any] | None) -> Entry:
    value = config or {}
    kind = value.get("class_name")
    if not isinstance(kind, str) or kind not in CONTAINERS:
        raise ValueError(
            f"cannot be taken over: it is a Keras model of the class {shown(kind)}, whose layers "
            "its author's code connects; save it as a functional or sequential model"
        )
    return entry_of({**value, "inbound_nodes": []})


def _entries(model: Entry) -> list[Entry]:
    layers = model.config.get("layers")
    if not isinstance(layers, list) or not layers:
        raise ValueError(f"is damaged: its model {quoted(model.name)!r} has no list of layers")
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"has more than {MAX_LAYERS:,} layers, more than any network here")
    entries = [entry_of(layer) for layer in layers]
    check_distinct(entries)
    return entries


def _in_order(entries: Sequence[Entry]) -> list[tuple[Entry, Call | None]]:
    """The layers of a functional model, each after those it reads; inputs have no call."""
    calls = {e.name: None if e.kind == "InputLayer" else e.call() for e in entries}
    waiting: dict[str, int] = {}
    readers: dict[str, list[Entry]] = {name: [] for name in calls}
    ready: list[Entry] = []
    for entry in entries:
        call = calls[entry.name]
        sources = set(call.inputs) if call else set()
        for name in sources:
            if name not in readers:
                raise ValueError(
                    f"is damaged: its layer {quoted(entry.name)!r} reads {quoted(name)!r}, which "
                    "the file does not have"
                )
            readers[name].append(entry)
        waiting[entry.name] = len(sources)
        if not sources:
            ready.append(entry)
    ordered: list[tuple[Entry, Call | None]] = []
    while ready:
        entry = ready.pop()
        ordered.append((entry, calls[entry.name]))
        for reader in readers[entry.name]:
            waiting[reader.name] -= 1
            if waiting[reader.name] == 0:
                ready.append(reader)
    if len(ordered) < len(entries):
        stuck = next(entry for entry in entries if waiting[entry.name] > 0)
        raise ValueError(f"is damaged: its layer {quoted(stuck.name)!r} waits for its own output")
    return ordered


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        if option == "training" and value in (None, False, 0):
            continue
        if value is not None:
            raise ValueError(
                f"cannot be taken over: its layer {quoted(name)!r} is called with "
                f"{quoted(option)}={shown(value)}, which no network here does"
            )
