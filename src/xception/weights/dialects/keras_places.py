"""Which tensors of a Keras file belong to which layer of its configuration.

A Keras 3 file does not use the layers' names: in each model the layers of one class are counted in
the order of the configuration ("layers/conv2d", "layers/conv2d_1"). A Keras 2 file lists weights
under the names of the outermost layers; a model inside another is one of these, with the names of
its own layers in those of the weights.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from xception.weights.dialects.keras_call import CONTAINERS, Entry, entry_of
from xception.weights.wording import quoted

_COUNTED = "layers"
_COUNTED_TWICE = "_layer_checkpoint_dependencies"  # Keras 2.12 and 2.13
_WITH_WEIGHTS = frozenset(
    {
        "Conv2D", "SeparableConv2D", "DepthwiseConv2D", "BatchNormalization", "Dense",
        "Normalization",
    }
)  # fmt: skip


class Place(Protocol):
    """Where the tensors of one layer, or of a model's layers, lie."""

    def tensors(self) -> Sequence[str]:
        """The layer's own, in Keras's order."""
        ...

    def inside(self, entries: Sequence[Entry]) -> Iterable[Place]:
        """One place for each of a model's layers."""
        ...


@dataclass(frozen=True, slots=True)
class ArchivePlace:
    """In a Keras 3 file: a group of its HDF5 file, "" for the outermost model.

    groups: for each group of weights their names; container: what a model calls its layers
    """

    groups: Mapping[str, Sequence[str]]
    container: str
    path: str = ""

    @classmethod
    def outermost(cls, names: Iterable[str]) -> ArchivePlace:
        groups: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        container = _COUNTED
        for name in names:
            group, marker, number = name.rpartition("/vars/")
            if marker and number.isdecimal() and len(number) < 5:
                groups[group].append((int(number), name))
            if name.startswith(_COUNTED_TWICE):
                container = _COUNTED_TWICE
        return cls(
            {g: [name for _, name in sorted(found)] for g, found in groups.items()}, container
        )

    def tensors(self) -> Sequence[str]:
        return self.groups.get(self.path, ())

    def inside(self, entries: Sequence[Entry]) -> Iterable[ArchivePlace]:
        counts: Counter[str] = Counter()
        for entry in entries:
            stem = snake_case(entry.kind)
            number = counts[stem]
            counts[stem] += 1
            if self.container == _COUNTED_TWICE and _has_weights(entry):
                counts[stem] += 1  # such a layer was listed under two names
            name = f"{stem}_{number}" if number else stem
            path = "/".join(part for part in (self.path, self.container, name) if part)
            yield ArchivePlace(self.groups, self.container, path)


@dataclass(frozen=True, slots=True)
class LayerNamePlace:
    """In a Keras 2 file: a layer of the outermost model, or one inside such a layer.

    groups: names of the weights, for (outermost layer, "") all of them, and for (outermost layer,
        inner layer) those of the inner one
    """

    groups: Mapping[tuple[str, str], Sequence[str]]
    layer: str | None = None
    inner: str = ""

    @classmethod
    def outermost(cls, names: Iterable[str], layers: Iterable[str]) -> LayerNamePlace:
        known = set(layers)
        groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for name in names:
            cuts = [match.start() for match in re.finditer("/", name)]
            layer = next((name[:cut] for cut in reversed(cuts) if name[:cut] in known), None)
            if layer is None:
                continue
            groups[layer, ""].append(name)
            if inner := inner_layer(layer, name):
                groups[layer, inner].append(name)
        return cls(groups)

    def tensors(self) -> Sequence[str]:
        return () if self.layer is None else self.groups.get((self.layer, self.inner), ())

    def inside(self, entries: Sequence[Entry]) -> Iterable[LayerNamePlace]:
        for entry in entries:
            if self.layer is None:
                yield LayerNamePlace(self.groups, entry.name)
            else:
                yield LayerNamePlace(self.groups, self.layer, entry.name)


def inner_layer(layer: str, name: str) -> str:
    """Of "LAYER/model/conv2d/kernel:0" the part that names the layer with that weight: "conv2d"."""
    parts = name[len(layer) + 1 :].split("/")
    return parts[-2] if len(parts) > 1 else ""


def check_distinct(entries: Sequence[Entry]) -> None:
    """Raise ValueError when two layers of a model have the same name."""
    counts = Counter(entry.name for entry in entries)
    for name, count in counts.items():
        if count > 1:
            raise ValueError(f"is damaged: {count} of its layers are called {quoted(name)!r}")


def _has_weights(entry: Entry) -> bool:
    if entry.kind in CONTAINERS:  # one without would have to hold nothing but augmentation
        layers = entry.config.get("layers")
        found = layers if isinstance(layers, list) else []
        kinds = [entry_of(e).kind for e in found]
        return any(kind in _WITH_WEIGHTS or kind in CONTAINERS for kind in kinds)
    return entry.kind in _WITH_WEIGHTS


def snake_case(kind: str) -> str:
    """Keras's rule for names of groups: "SeparableConv2D" -> "separable_conv2d"."""
    split = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", split).lower()
