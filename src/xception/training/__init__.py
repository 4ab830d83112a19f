"""Floor 5: recipes and the loop that trains by them."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "presets": ["PRESETS"],
        "progress": ["Progress", "RichProgress"],
        "recipe": ["Recipe"],
        "run": ["TrainResult"],
        "run_folder": ["RunFolder", "split_of_run"],
        "start": ["train"],
    },
)
