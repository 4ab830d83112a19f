"""Whether labelled data and a model speak of the same classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xception.data.wording import listed
from xception.errors import DataError
from xception.inference.network import class_labels
from xception.models import Classifier


def match_classes(
    model: Classifier, classes: Sequence[str] | None, labels: Sequence[int], data: str
) -> tuple[list[str], Tensor]:
    """Names by the model's index, and for each of the data's labels that index (int64).

    classes: the data's names by label; None when labels are the model's indices already
    labels: those that occur; data may lack some of the model's classes, and may name others that
        have no picture

    Where either side has no names, labels are taken as indices. Raises DataError saying what
    differs.
    """
    used = sorted(set(labels))
    known = model.num_classes if classes is None else len(classes)
    for label in used[:1] + used[-1:]:
        if not 0 <= label < known:
            raise DataError(f"{data} has the label {label}, but there are {known} classes")
    names = class_labels(model)
    if classes is None:
        return names, torch.arange(model.num_classes)
    if model.class_names is None:
        if len(classes) != model.num_classes:
            raise DataError(
                f"{data} has {len(classes)} classes, the model {model.num_classes} (whose names it "
                "does not know); give data with the classes that it was trained on, or name them "
                "by `xception convert MODEL FILE.safetensors --classes ...`"
            )
        return list(classes), torch.arange(model.num_classes)
    index = {name: i for i, name in enumerate(names)}
    unknown = [classes[label] for label in used if classes[label] not in index]
    if unknown:
        raise DataError(
            f"{data} has classes that the model does not know: {listed(map(repr, unknown))}; the "
            f"model's are {listed(map(repr, names))}; give data with the model's classes"
        )
    return names, torch.tensor([index.get(name, -1) for name in classes], dtype=torch.int64)
