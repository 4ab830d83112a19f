"""Data: sources of labelled pictures, decoding, transforms, batches and checks."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "check": ["DataReport", "check_data"],
        "dataset": ["PictureDataset"],
        "decode": ["MAX_PIXELS", "PICTURE_SUFFIXES", "decode_picture"],
        "loader": ["Batch", "Loader", "batches", "evaluation_loader"],
        "named": ["NAMED_DATA", "data_root"],
        "picture_tensor": ["preprocess"],
        "samples": ["DataSource", "Samples"],
        "sources": ["open_data"],
        "transforms": [
            "Augmentation",
            "TrainTransform",
            "evaluation_transform",
            "train_transform",
        ],
        "unreadable": ["UnreadableTally"],
    },
)
