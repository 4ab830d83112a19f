"""Floor 5: recipes and the loop that trains by them."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "loop": ["TrainResult", "train"],
        "presets": ["PRESETS"],
        "progress": ["Progress", "RichProgress"],
        "recipe": ["Recipe"],
        "run_folder": ["RunFolder", "split_of_run"],
    },
)
