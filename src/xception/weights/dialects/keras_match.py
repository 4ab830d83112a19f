"""Finding the layers of one of our networks in the graph of a Keras file, whatever their names.

The walk goes from the picture to the feature map. At every layer all that could change a number is
compared, so that a match means equal numbers and a difference is told by the layer's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from xception.weights.dialects.keras_call import shown
from xception.weights.dialects.keras_graph import CONVOLUTIONS, Graph, Node
from xception.weights.dialects.keras_plan import INPUT, PlannedLayer

_DEFAULTS: dict[str, Any] = {  # Keras's, for what older versions do not write down
    "strides": (1, 1), "padding": "valid", "dilation_rate": (1, 1), "groups": 1,
    "data_format": "channels_last", "depth_multiplier": 1, "use_bias": True, "axis": -1,
    "center": True, "scale": True, "epsilon": 1e-3, "momentum": 0.99, "pool_size": (2, 2),
}  # fmt: skip
_PAIRS = frozenset({"kernel_size", "strides", "dilation_rate", "pool_size"})


class Mismatch(ValueError):
    """The graph is not that network; the text says by which layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """nodes: for each planned layer the index of its node; output: of the feature map's.

    epsilon, momentum: of batch normalization, the same in every layer; momentum in Keras's sense
    """

    nodes: Sequence[int]
    output: int
    epsilon: float
    momentum: float


def match(graph: Graph, plan: Sequence[PlannedLayer], start: int, network: str) -> Match:
    """The node of `graph` for each layer of `plan`, whose picture is the node `start`.

    network: what messages call it

    Raises Mismatch naming the layer that differs.
    """
    found: list[int] = []
    place = {INPUT: start}
    for index, layer in enumerate(plan):
        sources = sorted({place[i] for i in layer.inputs})
        node = _reader(graph, sources, layer, network)
        differing = _difference(graph.nodes[node], layer)
        if differing is not None:
            own, wanted = (_shown(s[differing]) for s in (_settings(graph, node), layer.settings))
            raise Mismatch(
                f"is not {network}: its {graph.nodes[node]} has {differing}={own}, where "
                f"{network} has {wanted}"
            )
        place[index] = node
        found.append(node)
    epsilon, momentum = _normalization(graph, found, network)
    return Match(nodes=found, output=found[-1], epsilon=epsilon, momentum=momentum)


def torch_momentum(momentum: float) -> float:
    """Keras's share of the old statistics -> torch's of the new ones: 0.99 -> 0.01 exactly."""
    return float(1 - Decimal(repr(momentum)))


def settings_of(node: Node, names: Sequence[str]) -> dict[str, Any]:
    """What a layer's configuration says of `names`, in the form that `PlannedLayer` has."""
    return {name: _plain(node.config.get(name, _DEFAULTS.get(name)), name, node) for name in names}


def _reader(graph: Graph, sources: list[int], layer: PlannedLayer, network: str) -> int:
    """The node that reads `sources` and is of the kind of `layer`, and like it where there is one.

    A residual connection can begin with a layer of the same kind.
    """
    readers = graph.readers[sources[0]]
    of_kind = [
        reader
        for reader in readers
        if graph.nodes[reader].kind == layer.kind
        and sorted(set(graph.nodes[reader].inputs)) == sources
    ]
    alike = [reader for reader in of_kind if _difference(graph.nodes[reader], layer) is None]
    if of_kind:
        return (alike or of_kind)[0]
    at = graph.nodes[sources[0]]
    wanted = _described(layer)
    if not readers:
        raise Mismatch(f"is not {network}: it ends at its {at}, where {network} has {wanted}")
    others = ", ".join(f"{graph.nodes[r]} ({graph.nodes[r].kind})" for r in readers[:2])
    raise Mismatch(
        f"is not {network}: after its {at} comes its {others}, where {network} has {wanted}"
    )


def _shown(value: Any) -> str:
    """As `shown`, and the zeros at each of the sides, which are pairs."""
    if isinstance(value, tuple) and any(isinstance(side, tuple) for side in value):
        return f"[{', '.join(map(shown, value))}]"
    return shown(value)


def _described(layer: PlannedLayer) -> str:
    said = [f"{name}={layer.settings[name]}" for name in ("filters", "activation", "pool_size")
            if name in layer.settings]  # fmt: skip
    return f"a {layer.kind}" + (f" ({', '.join(said)})" if said else "")


def _settings(graph: Graph, node: int) -> dict[str, Any]:
    return settings_of(graph.nodes[node], [*_DEFAULTS, "filters", "kernel_size", "activation"])


def _difference(node: Node, layer: PlannedLayer) -> str | None:
    own = settings_of(node, list(layer.settings))
    return next((name for name, wanted in layer.settings.items() if own[name] != wanted), None)


def _plain(value: Any, name: str, node: Node) -> Any:
    if name in _PAIRS:
        if value is None and name == "strides":
            value = node.config.get("pool_size", _DEFAULTS["pool_size"])
        if type(value) is int:
            return (value, value)
        return tuple(value) if isinstance(value, list | tuple) and len(value) == 2 else value
    if name == "axis":
        axis = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
        return -1 if axis == 3 else axis
    if name == "padding" and node.kind == "ZeroPadding2D":
        sides = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
        return tuple(tuple(s) if isinstance(s, list | tuple) else (s, s) for s in sides)
    if name == "padding" and value == "same" and node.kind in CONVOLUTIONS:
        kernel_size = _plain(node.config.get("kernel_size"), "kernel_size", node)
        return "valid" if kernel_size == (1, 1) else value  # nothing is padded either way
    return value


def _is_usable(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf if name == "epsilon" else 0 <= value < 1


def _normalization(graph: Graph, found: Sequence[int], network: str) -> tuple[float, float]:
    """epsilon and momentum, which a network here has once."""
    first: tuple[Node, Mapping[str, Any]] | None = None
    for index in found:
        node = graph.nodes[index]
        if node.kind != "BatchNormalization":
            continue
        own = settings_of(node, ["epsilon", "momentum"])
        for name, value in own.items():
            if not _is_usable(name, value):
                raise Mismatch(
                    f"cannot be taken over: its {node} has {name}={shown(value)}, with which it "
                    "cannot normalize"
                )
            if first is not None and value != first[1][name]:
                raise Mismatch(
                    f"cannot be taken over: its {node} has {name}={shown(value)}, its {first[0]} "
                    f"{shown(first[1][name])}; {network} has one for all"
                )
        first = first or (node, own)
    assert first is not None  # every network here normalizes
    return float(first[1]["epsilon"]), float(first[1]["momentum"])
