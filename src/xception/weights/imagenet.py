"""The names of ImageNet's 1000 classes, in the order of the outputs of published weights.

Source: the categories that torchvision gives with its weights (BSD-3-Clause), the first word of
each class's WordNet entry. Two such words stand for two classes each; these four carry their
WordNet number, as in the data set "imagenet" of `open_data`, so that a model with these names can
be evaluated on it.
"""

from __future__ import annotations

from functools import cache

from xception.errors import XceptionError

IMAGENET_CLASSES = 1000

# index: name. torchvision calls them "crane bird", "crane", "maillot" and "maillot tank suit".
_ALIKE = {
    134: "crane (n02012849)",  # a bird
    517: "crane (n03126707)",  # that lifts
    638: "maillot (n03710637)",  # a tight garment
    639: "maillot (n03710721)",  # to swim in
}


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 names, all different, by the index of the output.

    Raises XceptionError where torchvision no longer gives them.
    """
    names = list(_categories())
    for index, name in _ALIKE.items():
        if len(names) > index:
            names[index] = name
    if len(names) != IMAGENET_CLASSES or len(set(names)) != IMAGENET_CLASSES:
        raise XceptionError(
            f"torchvision names {len(set(names))} different classes of ImageNet, not "
            f"{IMAGENET_CLASSES}; install the torchvision of this version's requirements"
        )
    return tuple(names)


def _categories() -> list[str]:
    try:
        from torchvision.models import ResNet50_Weights

        return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    except (ImportError, AttributeError, KeyError) as error:
        raise XceptionError(
            f"torchvision does not give ImageNet's class names ({error}); install the torchvision "
            "of this version's requirements"
        ) from None
