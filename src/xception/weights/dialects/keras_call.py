"""One layer's entry in a Keras configuration, and what it is called on.

Keras 3 writes a call as {"args": [tensor, 127.5], "kwargs": {...}}, Keras 2 as
[["layer", 0, 0, {...}]]; both are read here. Nothing of them is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xception.weights.wording import quoted

MAX_INPUTS = 16  # tensors that one call may read
MAX_NAME = 500  # characters
CONTAINERS = frozenset({"Functional", "Model", "Sequential"})
TENSOR = object()  # stands for a tensor among the operands of a call

_RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
}
_CONSTANT = "_CONSTANT_VALUE"  # Keras 2: not a layer's name, a number follows
_OWN_MODULES = ("keras", "tf_keras", "tensorflow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What a layer is called on.

    inputs: names of the layers read; operands: the arguments in order, `TENSOR` for each input
    options: arguments by name, tensors left out
    """

    inputs: tuple[str, ...]
    operands: tuple[object, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One element of "layers". calls: its inbound nodes, not looked into yet."""

    name: str
    kind: str
    config: Mapping[str, Any]
    calls: tuple[Any, ...]

    def call(self) -> Call:
        """The one call of this layer; raises ValueError when there are none or several."""
        if len(self.calls) != 1:
            times = "is not connected" if not self.calls else f"is used {len(self.calls)} times"
            raise ValueError(
                f"cannot be taken over: its layer {quoted(self.name)!r} {times}; in the networks "
                "here each layer is used once"
            )
        return _call(self.calls[0], self.name)


def entry_of(value: Any) -> Entry:
    """Check and take over one element of "layers"; raises ValueError naming the layer."""
    if not isinstance(value, Mapping) or not isinstance(value.get("class_name"), str):
        raise ValueError("is damaged: its configuration has a layer without a class name")
    kind: str = value["class_name"]
    config = value.get("config")
    if isinstance(config, list) and kind == "Sequential":  # Keras before 2.2.3
        config = {"name": "sequential", "layers": config}
    if not isinstance(config, Mapping):
        raise ValueError(f"is damaged: its layer of class {quoted(kind)} has no configuration")
    name = value.get("name", config.get("name"))
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"is damaged: its layer of class {quoted(kind)} has no usable name")
    calls = value.get("inbound_nodes") or []
    if not isinstance(calls, list):
        raise ValueError(f"is damaged: inputs of its layer {quoted(name)!r} are no list")
    if not is_of_keras(value):
        raise ValueError(
            f"cannot be taken over: its layer {quoted(name)!r} is a class of its author's "
            f"({shown(value.get('registered_name') or kind)}), whose code is not in the file"
        )
    return Entry(name=name, kind=_RENAMED.get(kind, kind), config=config, calls=tuple(calls))


def is_of_keras(value: Mapping[str, Any]) -> bool:
    """Whether an object of a configuration is of Keras itself, not of the file's author.

    Keras 3 says so by "module" and "registered_name"; Keras 2 has neither, and its files name
    classes of an author's own as if they were Keras's.
    """
    kind, module, registered = (value.get(k) for k in ("class_name", "module", "registered_name"))
    if registered not in (None, kind):
        return False
    if kind == "function" and module == "builtins":
        return True
    return module is None or (isinstance(module, str) and module.split(".")[0] in _OWN_MODULES)


def endpoint(value: Any, what: str) -> str:
    """The name in "input_layers" or "output_layers", which must hold one."""
    leaf = value
    while isinstance(leaf, list) and len(leaf) == 1:
        leaf = leaf[0]
    if isinstance(leaf, list) and len(leaf) == 3 and isinstance(leaf[0], str):
        return leaf[0]
    count = len(value) if isinstance(value, list | Mapping) else 0
    raise ValueError(
        f"cannot be taken over: it is a Keras model with {count or 'unknown'} {what}s; "
        "the networks here have one"
    )


def shown(value: object) -> str:
    """A value of a configuration in print; what it holds inside is not looked into."""
    plain = str | int | float | None
    if isinstance(value, plain):
        return quoted(repr(value))
    if not isinstance(value, list | tuple):
        return "an object"
    is_short = len(value) <= 4 and all(isinstance(item, plain) for item in value)
    return quoted(repr(list(value))) if is_short else "a list"


def _call(node: Any, layer: str) -> Call:
    inputs: list[str] = []
    operands: list[object] = []
    options: dict[str, Any] = {}
    if isinstance(node, Mapping):
        arguments, named = node.get("args", []), node.get("kwargs") or {}
        if not isinstance(arguments, list) or not isinstance(named, Mapping):
            raise _unreadable(layer)
        for argument in _flat(arguments):
            history = _history(argument)
            operands.append(_constant(argument) if history is None else TENSOR)
            if history is not None:
                inputs.append(_source(history, layer))
        for key, argument in named.items():
            history = _history(argument)
            if history is None:
                options[key] = _constant(argument)
            else:
                operands.append(TENSOR)
                inputs.append(_source(history, layer))
    elif isinstance(node, list):
        leaves = [node] if node and isinstance(node[0], str) else node
        for leaf in leaves:
            if not isinstance(leaf, list) or len(leaf) not in (3, 4):
                raise _unreadable(layer)
            if leaf[0] == _CONSTANT:
                operands.append(leaf[2])
            else:
                operands.append(TENSOR)
                inputs.append(_source(leaf[:3], layer))
            if len(leaf) == 4 and isinstance(leaf[3], Mapping):
                options.update(leaf[3])
    else:
        raise _unreadable(layer)
    if not 0 < len(inputs) <= MAX_INPUTS:
        raise _unreadable(layer)
    return Call(inputs=tuple(inputs), operands=tuple(operands), options=options)


def _flat(arguments: list[Any]) -> Iterator[Any]:
    """The arguments, those of a list of tensors one by one."""
    for argument in arguments:
        if isinstance(argument, list) and any(_history(a) is not None for a in argument):
            yield from argument
        else:
            yield argument


def _history(argument: Any) -> Any:
    """Where a tensor comes from ([layer, node, output]); None for what is no tensor."""
    if not isinstance(argument, Mapping) or argument.get("class_name") != "__keras_tensor__":
        return None
    config = argument.get("config")
    return config.get("keras_history", ()) if isinstance(config, Mapping) else ()


def _source(history: Any, layer: str) -> str:
    if not isinstance(history, list | tuple) or len(history) != 3:
        raise _unreadable(layer)
    name, node, output = history
    # Keras 2 counts a nested model's own definition as its first node: 0 or 1 is the only call.
    if not isinstance(name, str) or type(node) is not int or type(output) is not int:
        raise _unreadable(layer)
    if node not in (0, 1) or output != 0:
        raise ValueError(
            f"cannot be taken over: its layer {quoted(layer)!r} reads output {output} of "
            f"call {node} of {quoted(name)!r}; in the networks here each layer is used once"
        )
    return name


def _constant(argument: Any) -> object:
    if isinstance(argument, Mapping) and argument.get("class_name") in ("__numpy__", "__tensor__"):
        config = argument.get("config")
        return config.get("value") if isinstance(config, Mapping) else None
    return argument


def _unreadable(layer: str) -> ValueError:
    return ValueError(
        f"is damaged: the inputs of its layer {quoted(layer)!r} cannot be understood; "
        "save the model again by Keras"
    )
