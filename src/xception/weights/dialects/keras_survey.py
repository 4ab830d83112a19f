"""Which convolutions a Keras configuration has: enough to tell another network from one of ours.

Only what is counted is looked at; whether a file can be read is for `keras_graph` to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xception.weights.dialects.keras_call import CONTAINERS
from xception.weights.dialects.keras_graph import CONVOLUTIONS, MAX_LAYERS
from xception.weights.dialects.keras_plan import PlannedLayer
from xception.weights.wording import quoted

# Keras's other networks share 0.38 at most with one of ours, our nearest neighbours 0.9.
_LEAST_LIKENESS = 0.5

_Convolution = tuple[str, Any]  # Keras's class, filters


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """name: of the model with the most layers; convolutions: of it and of all models in it."""

    name: str
    convolutions: tuple[_Convolution, ...]


def survey(config: Any) -> Survey:
    """Look through the models of a configuration, whatever else may be in it."""
    name, most = "", 0
    found: list[_Convolution] = []
    waiting = [config]
    for _ in range(MAX_LAYERS):
        if not waiting:
            break
        value = waiting.pop()
        kind = value.get("class_name") if isinstance(value, Mapping) else None
        if not isinstance(kind, str):
            continue
        inner = value.get("config")
        settings = inner if isinstance(inner, Mapping) else {}
        if kind in CONVOLUTIONS:
            found.append((kind, settings.get("filters")))
        layers = settings.get("layers", inner)  # a list of layers itself before Keras 2.2.3
        if kind in CONTAINERS and isinstance(layers, list):
            waiting.extend(layers[:MAX_LAYERS])
            if len(layers) > most:
                name, most = str(settings.get("name", value.get("name"))), len(layers)
    return Survey(name=name, convolutions=tuple(found))


def likeness(found: Survey, plan: Sequence[PlannedLayer]) -> float:
    """How much of the two is common, 0..1, by classes and filters of convolutions alone.

    Of several networks that a file is not, the most like it is worth naming.
    """
    theirs, ours = (Counter(_marks(c)) for c in (found.convolutions, _planned(plan)))
    return (theirs & ours).total() / (theirs | ours).total()


def is_like(found: Survey, plan: Sequence[PlannedLayer]) -> bool:
    """Whether it is worth telling in which layer the two differ."""
    kinds = (Counter(kind for kind, _ in c) for c in (found.convolutions, _planned(plan)))
    return likeness(found, plan) >= _LEAST_LIKENESS or next(kinds) == next(kinds)


def told_apart(found: Survey, plan: Sequence[PlannedLayer], network: str) -> str:
    """The end of a sentence that begins with the file's name: what it holds, what was looked for.

    network: what the message calls the one of the plan
    """
    return (
        f"is no Xception that xception knows: its model {quoted(found.name)!r} has "
        f"{_counted(found.convolutions)}, where {network} has {_counted(_planned(plan))}; "
        "`xception models` lists the networks that can be read"
    )


def _planned(plan: Sequence[PlannedLayer]) -> list[_Convolution]:
    return [(p.kind, p.settings.get("filters")) for p in plan if p.kind in CONVOLUTIONS]


def _marks(convolutions: Iterable[_Convolution]) -> Iterator[tuple[str, int | None]]:
    for kind, filters in convolutions:
        yield kind, None
        if type(filters) is int:
            yield kind, filters


def _counted(convolutions: Iterable[_Convolution]) -> str:
    """The number of each class: "15 Conv2D and 13 DepthwiseConv2D layers"."""
    counts = Counter(kind for kind, _ in convolutions)
    if not counts:
        return "no convolution"
    named = " and ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return f"{named} layer{'' if counts.total() == 1 else 's'}"
