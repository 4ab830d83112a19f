"""The one list of networks: name, what it is, how to build it, how its pictures are prepared."""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from xception.models.classifier import Classifier, FeatureExtractor
from xception.models.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """One registered network."""

    name: str
    summary: str  # for `xception models`, which counts parameters itself; 38 characters fit
    build: Callable[..., Classifier]  # takes the architecture's arguments by keyword
    preprocessing: Preprocessing  # for the channels that are the network's default

    def argument_names(self) -> list[str]:
        """Names of the arguments that `create_model` passes on to this network."""
        return list(inspect.signature(self.build).parameters)

    def defaults(self) -> dict[str, Any]:
        """The values of those arguments that may be left out."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


_entries: dict[str, ModelEntry] = {}


def register(entry: ModelEntry) -> None:
    """Add a network; raises ValueError when the name is taken."""
    if entry.name in _entries:
        raise ValueError(f"a model named {entry.name!r} is registered already")
    _entries[entry.name] = entry


def list_models() -> list[str]:
    """The names that `create_model` knows, in the order of the registry."""
    return list(_entries)


def model_entry(name: str) -> ModelEntry:
    """The entry for `name`; raises ValueError that proposes the nearest name."""
    if name in _entries:
        return _entries[name]
    near = difflib.get_close_matches(name, _entries, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_entries)}"
    raise ValueError(f"there is no model named {name!r}; {hint}")


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build a network with fresh weights.

    name: one of `list_models()`
    num_classes: logits that come out; 0 gives pooled features
    in_channels: channels of the input, by default the network's own (1 of mini_xception, else 3)
    features_only: return a `FeatureExtractor` (list of feature maps, finest first) instead;
        `out_indices` picks among its resolutions
    arguments: the architecture's own: segments, intermediate_activation, residual, pooling,
        fc_units, head_layers, dropout, output_stride, padding, bn_eps, bn_momentum (see `Xception`;
        the aligned networks and mini_xception take fewer)

    Raises ValueError naming an unknown model or argument and the nearest known one.
    """
    entry = model_entry(name)
    if in_channels is None:
        in_channels = entry.defaults().get("in_channels", 3)
    given = {"num_classes": num_classes, "in_channels": in_channels, **arguments}
    resolved = resolved_arguments(name, **given)
    model = entry.build(**given)
    model.architecture = {"name": name, "args": resolved}
    model.preprocessing = _preprocessing_for(entry.preprocessing, in_channels)
    return FeatureExtractor(model, out_indices) if features_only else model


def resolved_arguments(name: str, **given: Any) -> dict[str, Any]:
    """Every argument of the network `name` in JSON's types: `given`, the defaults for the rest.

    Two networks of one name whose resolved arguments are equal compute the same function of the
    same weights. Model files hold them, so that a default changed later changes no file.
    Raises ValueError naming an unknown model or argument and the nearest known one.
    """
    entry = model_entry(name)
    known = entry.argument_names()
    for argument in given:
        if argument not in known:
            near = difflib.get_close_matches(argument, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise ValueError(f"{name} has no argument {argument!r}; {hint}")
    return {key: _plain(value) for key, value in {**entry.defaults(), **given}.items()}


def _plain(value: Any) -> Any:
    """A copy in JSON's types: tuples become lists, as they come back from a model file."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)  # of numpy
    return value


def _preprocessing_for(preprocessing: Preprocessing, in_channels: int) -> Preprocessing:
    """The entry's, for grey pictures when there is one channel and for RGB when there are others.

    Where that changes the number of channels, each gets mean and std of the first.
    """
    channels = 1 if in_channels == 1 else 3
    if channels == preprocessing.channels:
        return preprocessing
    mean, std = preprocessing.mean[:1] * channels, preprocessing.std[:1] * channels
    return replace(preprocessing, channels=channels, mean=mean, std=std)
