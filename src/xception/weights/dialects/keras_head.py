"""What stands on a Keras model's feature map, as the head of one of our networks.

Ours give logits. A softmax or sigmoid at the end is dropped, and said so; one output for two
classes becomes two: softmax([0, z]) is [1 - sigmoid(z), sigmoid(z)].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xception.weights.dialects.keras_call import shown
from xception.weights.dialects.keras_graph import Graph, Node
from xception.weights.dialects.keras_match import settings_of, torch_momentum
from xception.weights.dialects.keras_plan import ROLES

_POOLINGS = ("GlobalAveragePooling2D", "GlobalMaxPooling2D")
_PROBABILITIES = ("softmax", "sigmoid")
_FREE = ("dropout",)  # does nothing outside training

BINARY = (
    "its one output tells two classes apart: two logits come out, the first always 0, whose "
    "softmax is [1 - p, p] for the sigmoid p of the file's"
)
ONE_LOGIT = (
    "its one output has no activation: taken for what a sigmoid would follow, as in Keras's guide "
    "to transfer learning, and not for a number to be estimated"
)
NO_CLASSES = "the file ends before any classes: features come out (num_classes=0)"


@dataclass(kw_only=True, slots=True)
class HeadPart:
    """arguments: of `create_model`; num_classes: of the file's outputs, before `binary`

    weights: (node, its tensors' names in our state dict, in Keras's order)
    binary: a row of zeros comes before the one output
    without_bias: our names that get zeros, since Keras's layer has no bias
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 0
    weights: list[tuple[Node, tuple[str, ...]]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    binary: bool = False
    without_bias: tuple[str, ...] = ()

    def end(self, units: int, ending: str) -> None:
        """units: outputs of the last layer with weights; ending: the activation after it."""
        self.num_classes = units
        self.binary = units == 1 and ending != "softmax"
        if self.binary:
            self.notes.append(BINARY)
            if ending == "linear":
                self.notes.append(ONE_LOGIT)
        elif ending == "sigmoid":
            self.notes.append(
                f"its {units} outputs are independent probabilities: logits come out, take their "
                "sigmoid"
            )
        elif ending == "softmax":
            self.notes.append("its softmax at the end is left away: logits come out")
        elif ending == "linear":
            self.notes.append("the file ends in numbers without activation: taken for logits")

    def one_output_as_it_is(self) -> None:
        """Take one output for one class, where somebody is known to have made it so."""
        if self.binary:
            self.binary = False
            self.notes = [note for note in self.notes if note not in (BINARY, ONE_LOGIT)]


def pooled_head(graph: Graph, at: int) -> HeadPart:
    """Of `ClassifierHead`: a global pooling, layers of one feature vector, the last Dense.

    at: index of the node that gives the feature map
    Raises ValueError naming the layer that has no equal.
    """
    head = HeadPart()
    chain = _chain(graph, at, head)
    if not chain:
        head.notes.append(f"{NO_CLASSES}; averaged, where Keras gives the feature map")
        return head
    first = chain.pop(0)
    if first.kind not in _POOLINGS:
        raise _without_equal(first, "stands where a global average or maximum pooling is expected")
    _check_channels_last(first)
    if first.config.get("keepdims") and not (chain and chain[0].kind == "Flatten"):
        raise _without_equal(first, "keeps the axes that it has pooled")
    if first.kind == "GlobalMaxPooling2D":
        head.arguments["pooling"] = "max"
    layers = [node for node in chain if node.kind != "Flatten"]  # vectors are flat already
    texts = [_text(node) for node in layers]
    last = max((i for i, node in enumerate(layers) if node.kind == "Dense"), default=-1)
    ending = [text for text in texts[last + 1 :] if not text.startswith(_FREE)]
    if last < 0 or not (not ending or ending in [[p] for p in _PROBABILITIES]):
        head.notes.append(NO_CLASSES)  # or after the last Dense something computes on
        last = len(layers)
    for index, node in enumerate(layers[:last]):
        if texts[index] in _PROBABILITIES[:1]:
            raise _without_equal(node, "takes a softmax within the head")
        if node.kind in ROLES:
            path = f"head.fc_layers.{index}"
            head.weights.append((node, _our_names(node, path)))
    head.arguments.update(_arguments(texts[:last]))
    if last < len(layers):
        dense = layers[last]
        head.weights.append((dense, _our_names(dense, "head.fc")))
        if not _has_bias(dense):
            head.without_bias = ("head.fc.bias",)
            head.notes.append(f"its {dense} has no bias: zeros")
        head.end(_units(dense), ending[0] if ending else "linear")
    return head


def convolution_head(graph: Graph, at: int) -> HeadPart:
    """Of `ConvolutionHead`: a 3x3 convolution to the classes, if any, and global average pooling.

    Arguments and errors as of `pooled_head`.
    """
    head = HeadPart()
    chain = _chain(graph, at, head)
    dropouts = [node for node in chain if node.kind == "Dropout"]
    kinds = [node.kind for node in chain if node.kind != "Dropout"]
    if not chain:
        head.notes.append(f"{NO_CLASSES}; averaged, where Keras gives the feature map")
        return head
    if dropouts:
        head.arguments["dropout"] = _rate(dropouts[0])
        if len(dropouts) > 1 or chain[0] is not dropouts[0]:
            raise _without_equal(dropouts[-1], "drops values within the head")
    if kinds == ["GlobalAveragePooling2D"]:
        head.notes.append(NO_CLASSES)
        return head
    if kinds[:2] != ["Conv2D", "GlobalAveragePooling2D"] or kinds[2:] not in ([], ["Activation"]):
        raise _without_equal(
            chain[0], "stands where a convolution to the classes and its mean are expected"
        )
    conv, pool, *rest = (node for node in chain if node.kind != "Dropout")
    wanted = {
        "kernel_size": (3, 3), "strides": (1, 1), "padding": "same", "dilation_rate": (1, 1),
        "groups": 1, "use_bias": True, "data_format": "channels_last",
    }  # fmt: skip
    for name, value in settings_of(conv, list(wanted)).items():
        if value != wanted[name]:
            raise _without_equal(conv, f"has {name}={shown(value)}, not {shown(wanted[name])}")
    _check_channels_last(pool)
    ending = rest[0].config["activation"] if rest else "linear"
    if ending not in (*_PROBABILITIES, "linear"):
        raise _without_equal(rest[0], "comes after the classes")
    head.weights.append((conv, ("head.fc.weight", "head.fc.bias")))
    head.end(_count(conv, "filters"), ending)
    return head


def _chain(graph: Graph, at: int, head: HeadPart) -> list[Node]:
    """The nodes after `at`, each of which must be read by the next alone."""
    nodes: list[Node] = []
    while at != graph.output:
        readers = graph.readers[at]
        if len(readers) != 1:
            raise _without_equal(graph.nodes[readers[1]], f"also reads {graph.nodes[at]}")
        at = readers[0]
        nodes.append(graph.nodes[at])
        head.used.add(at)
        if len(set(graph.nodes[at].inputs)) != 1:
            raise _without_equal(graph.nodes[at], "joins several tensors")
    if graph.readers[at]:
        raise _without_equal(graph.nodes[graph.readers[at][0]], "comes after the output")
    return nodes


def _text(node: Node) -> str:
    """The layer as `make_head_layers` reads it; raises ValueError for what that cannot say."""
    if node.kind == "Activation":
        return str(node.config["activation"])
    if node.kind == "Dense":
        return f"linear {_units(node)}" + ("" if _has_bias(node) else " nobias")
    if node.kind == "Dropout":
        return f"dropout {_rate(node)!r}"
    if node.kind == "BatchNormalization":
        own = settings_of(node, ["axis", "center", "scale", "epsilon", "momentum"])
        if own["axis"] not in (-1, 1) or not own["center"] or not own["scale"]:
            raise _without_equal(node, "normalizes without scale or shift, or along another axis")
        epsilon, momentum = own["epsilon"], own["momentum"]
        if (
            not isinstance(epsilon, float)
            or not isinstance(momentum, float)
            or not 0 <= momentum < 1
        ):
            raise _without_equal(node, "has epsilon or momentum that cannot be used")
        return f"batchnorm {epsilon!r} {torch_momentum(momentum)!r}"
    raise _without_equal(node, "has no equal in a head here")


def _arguments(texts: Sequence[str]) -> dict[str, Any]:
    """As fc_units and dropout where they can say it, which everybody knows; else as head_layers."""
    before, dropout = list(texts), 0.0
    if before and before[-1].startswith("dropout"):
        dropout = float(before.pop().split()[1])
    pairs = list(zip(before[::2], before[1::2]))
    is_plain = len(before) % 2 == 0 and all(
        first.startswith("linear ") and not first.endswith("nobias") and second == "relu"
        for first, second in pairs
    )
    if not is_plain:
        return {"head_layers": list(texts)}
    arguments: dict[str, Any] = {"dropout": dropout} if dropout else {}
    if pairs:
        arguments["fc_units"] = [int(first.split()[1]) for first, _ in pairs]
    return arguments


def written_out(arguments: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Pooling and layers of a head, of which `create_model` knows several ways to say the same."""
    texts = list(arguments.get("head_layers", ()))
    for units in arguments.get("fc_units", ()):
        texts += [f"linear {units}", "relu"]
    if arguments.get("dropout"):
        texts.append(f"dropout {float(arguments['dropout'])!r}")
    return arguments.get("pooling", "avg"), texts


def _our_names(node: Node, path: str) -> tuple[str, ...]:
    if node.kind == "BatchNormalization":
        return tuple(f"{path}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
    return (f"{path}.weight", f"{path}.bias") if _has_bias(node) else (f"{path}.weight",)


def _has_bias(node: Node) -> bool:
    return bool(node.config.get("use_bias", True))


def _units(node: Node) -> int:
    return _count(node, "units")


def _count(node: Node, name: str) -> int:
    value = node.config.get(name)
    if type(value) is not int or value < 1:
        raise _without_equal(node, f"has {name}={shown(value)}")
    return value


def _rate(node: Node) -> float:
    rate = node.config.get("rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise _without_equal(node, f"drops a share of {shown(rate)}")
    return float(rate)


def _check_channels_last(node: Node) -> None:
    data_format = node.config.get("data_format", "channels_last")
    if data_format not in ("channels_last", None):
        raise _without_equal(node, f"has data_format={shown(data_format)}")


def _without_equal(node: Node, what: str) -> ValueError:
    return ValueError(
        f"cannot be taken over: after the feature map its {node} ({node.kind}) {what}"
    )
