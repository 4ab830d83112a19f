"""Floor 2: the networks and their registry."""

import xception.models.networks  # noqa: F401  # fills the registry
from xception.models.aligned import AlignedXception
from xception.models.classifier import Classifier, FeatureExtractor
from xception.models.diagram import draw_diagram
from xception.models.mini_xception import MiniXception
from xception.models.preprocessing import Preprocessing
from xception.models.registry import (
    ModelEntry,
    create_model,
    list_models,
    model_entry,
    register,
    resolved_arguments,
)
from xception.models.summary import LayerRow, summarize, totals
from xception.models.xception import Xception

__all__ = [
    "AlignedXception",
    "Classifier",
    "FeatureExtractor",
    "LayerRow",
    "MiniXception",
    "ModelEntry",
    "Preprocessing",
    "Xception",
    "create_model",
    "draw_diagram",
    "list_models",
    "model_entry",
    "register",
    "resolved_arguments",
    "summarize",
    "totals",
]
