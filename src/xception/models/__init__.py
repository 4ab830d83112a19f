"""Floor 2: the networks and their registry."""

import xception.models.networks  # noqa: F401  # fills the registry
from xception.models.classifier import Classifier, FeatureExtractor
from xception.models.preprocessing import Preprocessing
from xception.models.registry import (
    ModelEntry,
    create_model,
    list_models,
    model_entry,
    register,
)
from xception.models.xception import Xception

__all__ = [
    "Classifier",
    "FeatureExtractor",
    "ModelEntry",
    "Preprocessing",
    "Xception",
    "create_model",
    "list_models",
    "model_entry",
    "register",
]
