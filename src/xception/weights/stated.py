"""What a publisher or a hub's config.json says of weights, put in the place of guesses."""

from __future__ import annotations

import dataclasses
from typing import Any

from xception.models import Classifier, Preprocessing
from xception.weights.description import check_class_names
from xception.weights.hub import Resolved
from xception.weights.imagenet import IMAGENET_CLASSES, imagenet_classes
from xception.weights.imported import Imported
from xception.weights.wording import CLASSES_UNSAID, PICTURES_UNSAID, quoted


def as_stated(imported: Imported, resolved: Resolved) -> Imported:
    """`imported` with the preprocessing and class names that were published with its file.

    Choices that the importer made for what is stated are dropped. Raises ValueError when the
    publisher's list names another network, or a config.json contradicts the weights.
    """
    model = imported.model
    provenance = {**imported.provenance, "address": resolved.address}
    if resolved.published is not None:
        network = model.architecture["name"]
        if network != resolved.published.network:
            raise ValueError(f"is {network}, not {resolved.published.network} as published")
        model.preprocessing = resolved.published.preprocessing
        if model.num_classes == IMAGENET_CLASSES:
            model.class_names = list(imagenet_classes())
        provenance["licence"] = resolved.published.licence
    elif resolved.config is not None and isinstance(resolved.config.get("pretrained_cfg"), dict):
        _take_config(model, resolved.config)
    else:
        return dataclasses.replace(imported, provenance=provenance)
    choices = tuple(
        choice
        for choice in imported.report.choices
        if not choice.startswith((PICTURES_UNSAID, CLASSES_UNSAID))
    )
    if resolved.published is not None:
        choices = ()  # the publisher's own network
    report = dataclasses.replace(imported.report, choices=choices)
    return dataclasses.replace(imported, report=report, provenance=provenance)


def _take_config(model: Classifier, config: dict[str, Any]) -> None:
    """timm's config.json: preprocessing and names of the classes."""
    settings = config["pretrained_cfg"]
    try:
        model.preprocessing = _preprocessing(settings)
        names = config.get("label_names", settings.get("label_names"))
        check_class_names(names, model.num_classes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"comes with a config.json that cannot be used ({quoted(error)}); download the file "
            "and give its path"
        ) from None
    model.class_names = names


def _preprocessing(settings: dict[str, Any]) -> Preprocessing:
    channels, height, width = settings["input_size"]
    crops = {"center": "crop", "squash": "squash", "border": "pad"}
    return Preprocessing.from_dict(
        {
            "size": [height, width],
            "channels": channels,
            "resize": crops[settings.get("crop_mode", "center")],
            "crop_fraction": settings.get("crop_pct", 1.0),
            "interpolation": settings["interpolation"],
            "mean": settings["mean"],
            "std": settings["std"],
        }
    )
