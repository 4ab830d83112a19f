"""Using a trained model: predictions for pictures, and measures on labelled ones."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "evaluation": ["Evaluation", "evaluate"],
        "losses": ["evaluate_batches"],
        "predictor": ["Prediction", "Predictor"],
    },
)
