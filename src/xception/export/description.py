"""What an exported file says of its network: class names, preprocessing, architecture."""

from __future__ import annotations

import torch

from xception.errors import UsageError
from xception.models import Classifier
from xception.weights.description import METADATA_KEY, ModelDescription, check_class_names

__all__ = ["METADATA_KEY", "describe"]


def describe(network: Classifier) -> str:
    """The JSON text of a model file's description, kept under `METADATA_KEY`.

    A network that `create_model` did not build has an empty architecture in it. Raises UsageError
    for class names that do not fit the network.
    """
    from xception import __version__

    names = None if network.class_names is None else list(network.class_names)
    try:
        check_class_names(names, network.num_classes)
        return ModelDescription(
            architecture=network.architecture,
            class_names=names,
            preprocessing=network.preprocessing,
            provenance={"versions": {"xception": __version__, "torch": str(torch.__version__)}},
        ).to_json()
    except ValueError as error:
        raise UsageError(f"the model {error}") from None
