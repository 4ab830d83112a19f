"""Weights in and out: one .safetensors file is a whole classifier."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "conversion": ["Conversion", "Target", "convert"],
        "creation": ["create_model"],
        "description": ["FORMAT_VERSION", "ModelDescription", "check_class_names"],
        "matching": ["TransferReport", "arguments_from", "transfer"],
        "hub": ["is_elsewhere", "resolve"],
        "imagenet": ["imagenet_classes"],
        "imported": ["Imported", "ImportReport"],
        "model_file": ["save"],
        "parity": ["Parity"],
        "published": ["published_entry", "published_names", "published_weights"],
        "opening": ["load", "open_model"],
    },
)
