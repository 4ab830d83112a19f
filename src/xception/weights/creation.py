"""Building a network with fresh weights, or with those of a model file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from xception import models
from xception.models import Classifier, FeatureExtractor, model_entry
from xception.weights.matching import arguments_from, transfer
from xception.weights.opening import load


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    pretrained: str | os.PathLike[str] | None = None,
    **arguments: Any,
) -> nn.Module:
    """`xception.models.create_model` that can start from the weights of a model file.

    name: one of `list_models()`
    num_classes: logits that come out, by default 1000 or as in the file; 0 gives pooled features
    in_channels: channels of the input, by default the network's own or as in the file
    features_only, out_indices: a `FeatureExtractor` (feature maps, finest first) instead
    pretrained: what `load` takes (a file of xception, Keras, timm ..., or a name of
        `published_weights()`); None for fresh weights
    arguments: the architecture's own, by default the network's or as in the file

    With `pretrained`, preprocessing comes along. So do last layer and class names when the numbers
    of classes agree; otherwise the last layer is fresh. The model is float32, in training mode.

    Raises ValueError naming an unknown model or argument and the nearest known one; UsageError when
    an argument contradicts the file (all but num_classes and those of the head must agree);
    ModelFileError when the file cannot be used.
    """
    channels = {"num_classes": num_classes, "in_channels": in_channels}
    given = {**{key: n for key, n in channels.items() if n is not None}, **arguments}
    if pretrained is None:
        return models.create_model(
            name, features_only=features_only, out_indices=out_indices, **given
        )
    if not isinstance(pretrained, str | os.PathLike):
        raise ValueError(
            "pretrained must be a file of weights, hf-hub:OWNER/NAME, or a name that `xception "
            f"models --pretrained` lists, got {pretrained!r}"
        )
    model_entry(name)  # a misspelt name is told before a file is read
    source = load(pretrained)
    if source.architecture["name"] == name:
        given = arguments_from(source, given)
    model = cast(Classifier, models.create_model(name, **given))
    report = transfer(model, source, classes=None, name=os.fspath(pretrained))
    if report.last_layer != "fresh":
        model.class_names = source.class_names
    model.preprocessing = source.preprocessing
    return FeatureExtractor(model, out_indices) if features_only else model
