"""Using a trained model: predictions and features of pictures, measures on labelled ones."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "embedding": ["Embedding", "embed", "embed_iter"],
        "evaluation": ["Evaluation", "evaluate"],
        "losses": ["evaluate_batches"],
        "optimization": ["OptimizedModel", "optimize"],
        "predictor": ["Prediction", "Predictor"],
    },
)
