"""The report of a training run: plots and one self-contained HTML page."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "page": ["write_report"],
        "plots": ["confusion_png", "plot_confusion", "plot_curves", "plot_reliability"],
    },
)
