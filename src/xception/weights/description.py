"""What a model file says of its model beside the weights, as text and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from xception.models import Classifier, Preprocessing
from xception.weights.header import parse_json
from xception.weights.wording import quoted

FORMAT_VERSION = 1
METADATA_KEY = "xception"  # under which other formats keep it, too
MAX_CLASS_NAME = 1000  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """The metadata of a model file.

    architecture: {"name": a registered network, "args": arguments of `create_model`}
    class_names: one name a class, or None when they are not known
    preprocessing: how a picture becomes the input
    provenance: where the weights came from: run, data, recipe, "versions" of the libraries
    """

    architecture: dict[str, Any]
    class_names: list[str] | None
    preprocessing: Preprocessing
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, model: Classifier, provenance: dict[str, Any]) -> ModelDescription:
        """The description of `model`; raises ValueError when it cannot be described."""
        if not model.architecture:
            raise ValueError("does not know its architecture; build it by create_model")
        names = None if model.class_names is None else list(model.class_names)
        check_class_names(names, model.num_classes)
        return cls(
            architecture=model.architecture,
            class_names=names,
            preprocessing=model.preprocessing,
            provenance=provenance,
        )

    def to_json(self) -> str:
        """As `from_json` reads it; raises ValueError for what JSON cannot hold."""
        content = {
            "format_version": self.format_version,
            "architecture": self.architecture,
            "class_names": self.class_names,
            "preprocessing": self.preprocessing.to_dict(),
            "provenance": self.provenance,
        }
        try:
            return json.dumps(content, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"has a description that is not plain JSON ({error})") from None

    @classmethod
    def from_json(cls, text: str) -> ModelDescription:
        """Check and take over what a file says; raises ValueError with finding and advice."""
        content = parse_json(text, "description")
        if not isinstance(content, dict):
            raise ValueError("is damaged: its description is no JSON object")
        version = content.get("format_version")
        if type(version) is not int or version < 1:
            raise ValueError(f"has an invalid format_version: {quoted(version)}")
        if version > FORMAT_VERSION:
            raise ValueError(
                f"was written by a newer version of xception (format {quoted(version)}, this one "
                f"reads up to {FORMAT_VERSION}); upgrade xception"
            )
        architecture = content.get("architecture")
        if not isinstance(architecture, dict) or not (
            isinstance(architecture.get("name"), str)
            and isinstance(architecture.get("args"), dict)
            and type(architecture["args"].get("num_classes")) is int
        ):
            raise ValueError("has a description without architecture name, args and num_classes")
        names = content.get("class_names")
        check_class_names(names, architecture["args"]["num_classes"])
        preprocessing = content.get("preprocessing")
        if not isinstance(preprocessing, dict):
            raise ValueError("has a description without preprocessing")
        provenance = content.get("provenance", {})
        if not isinstance(provenance, dict):
            raise ValueError("has a description whose provenance is no JSON object")
        return cls(
            architecture={"name": architecture["name"], "args": architecture["args"]},
            class_names=names,
            preprocessing=_preprocessing(preprocessing),
            provenance=provenance,
            format_version=version,
        )


def check_class_names(names: Any, num_classes: int) -> None:
    """Raise ValueError unless `names` is None or `num_classes` different names."""
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("has class names that are no list of texts")
    if len(names) != num_classes:
        raise ValueError(f"names {len(names)} classes but has {quoted(num_classes)}")
    for name in names:
        if len(name) > MAX_CLASS_NAME:
            raise ValueError(
                f"has a class name of {len(name):,} characters ({quoted(name, 20)}), "
                f"more than {MAX_CLASS_NAME:,}"
            )
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"names two classes alike: {quoted(name)!r}")
        seen.add(name)


def _preprocessing(values: dict[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.from_dict(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"has a bad description: {quoted(error, 200)}") from None
