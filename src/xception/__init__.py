"""Depthwise separable convolutions and Xception: train, evaluate, predict, study.

import xception
run = xception.train(xception.Recipe.preset("small", data="pictures/"))
model = xception.load(run.model_path)
for prediction in xception.Predictor(model).predict(["cat.jpg"]):
    print(prediction.labels[0], prediction.probabilities[0])
"""

from xception._lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "errors": ["XceptionError"],
        "ops": ["separable_conv2d", "set_kernels", "tune_allocator"],
        "nn": [
            "InceptionModule",
            "SegmentedConv2d",
            "SeparableConv2d",
            "SimplifiedInception",
            "compress_saved_activations",
        ],
        "models": ["list_models", "Preprocessing"],
        "weights": ["create_model", "load", "save"],
        "data": ["check_data", "open_data"],
        "training": ["Recipe", "train"],
        "fusion": ["fuse", "unfuse"],
        "inference": ["Predictor", "embed", "evaluate", "optimize"],
        "report": ["write_report"],
    },
)
