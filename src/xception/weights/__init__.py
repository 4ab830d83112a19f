"""Weights in and out: one .safetensors file is a whole classifier."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "description": ["FORMAT_VERSION", "ModelDescription", "check_class_names"],
        "model_file": ["load", "read_info", "save"],
    },
)
