"""Weights in and out: one .safetensors file is a whole classifier."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "creation": ["create_model"],
        "description": ["FORMAT_VERSION", "ModelDescription", "check_class_names"],
        "matching": ["TransferReport", "transfer"],
        "model_file": ["load", "read_info", "save"],
    },
)
