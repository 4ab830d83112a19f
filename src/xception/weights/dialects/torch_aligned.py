"""timm's xception41, 65, 71, 41p and 65p: the aligned networks of DeepLab.

Source: https://github.com/huggingface/pytorch-image-models (timm/models/xception_aligned.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from xception.models import Classifier, model_entry
from xception.models.aligned_layout import (
    ALIGNED_41,
    ALIGNED_41P,
    ALIGNED_65,
    ALIGNED_65P,
    ALIGNED_71,
    AlignedLayout,
)
from xception.weights.dialects.counterpart import Counterpart, exported, fill
from xception.weights.dialects.state_dict import in_channels_of, num_classes_of, prefix_of
from xception.weights.dialects.unsaid import (
    class_choice,
    network_choices,
    picture_choices,
    prepared_for,
)
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported

_MARK = re.compile(r"blocks\.(\d{1,3})\.stack\.conv[123]\.conv_(?:dw|pw)\.weight$")
_LIBRARY = "timm's aligned Xceptions"
_LAYOUTS = {
    "xception41": ALIGNED_41,
    "xception65": ALIGNED_65,
    "xception71": ALIGNED_71,
    "xception41p": ALIGNED_41P,
    "xception65p": ALIGNED_65P,
}
NAMES = tuple(_LAYOUTS)  # the same in timm and here


def recognise(contents: FileContents) -> Imported | None:
    """The classifier in `contents`; None when its names are not those of these networks.

    Which of the five it is, names and shapes tell. The last layer may be missing; everything may
    stand under a prefix. The dtype stays.

    Raises ValueError when the names are these networks' but tensors are missing, left over, of
    another shape or dtype, or hold no usable numbers.
    """
    prefix = prefix_of(contents.tensors, _MARK, _LIBRARY)
    if prefix is None:
        return None
    counterpart = _COUNTERPARTS[_which(contents.tensors, prefix)]
    num_classes = num_classes_of(contents.tensors, f"{prefix}head.fc")
    first = contents.tensors.get(f"{prefix}stem.0.conv.weight")
    in_channels = in_channels_of(first, _LAYOUTS[counterpart.name].stem[0])

    model = counterpart.skeleton(num_classes, in_channels)
    model.preprocessing = prepared_for(model_entry(counterpart.name).preprocessing, in_channels)
    names = counterpart.names(model)
    report = fill(
        model,
        {ours: prefix + theirs for ours, theirs in names.items()},
        contents.tensors,
        library=counterpart.library,
        dialect=f"timm {counterpart.name}, {contents.kind}",
        choices=_choices(model, counterpart),
    )
    return Imported(model=model, report=report)


def to_timm(model: Classifier) -> dict[str, Tensor]:
    """The state dict that timm's network of the same name loads with strict=True; shared tensors.

    Raises ValueError naming the arguments of `model` under which it computes what timm's cannot
    (dropout and bn_momentum, which change no output in eval mode, may differ), or when it is none
    of the five.
    """
    name = model.architecture.get("name", "")
    return exported(model, _COUNTERPARTS.get(name, _COUNTERPARTS["xception41"]))


def timm_tensors(contents: FileContents) -> dict[str, Tensor]:
    """The tensors of a file that `recognise` took, under the names they have in timm."""
    prefix = prefix_of(contents.tensors, _MARK, _LIBRARY) or ""
    return {name[len(prefix) :]: tensor for name, tensor in contents.tensors.items()}


def _counterpart(name: str, layout: AlignedLayout) -> Counterpart:
    return Counterpart(
        library=f"timm's {name}",
        name=name,
        modules=_modules(layout),
    )


def _modules(layout: AlignedLayout) -> dict[str, str]:
    """Our modules with tensors -> timm's."""
    bare = layout.pre_activation  # convolutions without a normalization of their own
    pairs = {
        "stem.conv1": "stem.0.conv",
        "stem.norm1": "stem.0.bn",
        "stem.conv2": "stem.1" if bare else "stem.1.conv",
        "stem.norm2": "stem.1.bn",
        "head.fc": "head.fc",
    }
    for number, (ours, units) in enumerate(_blocks(layout)):
        theirs = f"blocks.{number}"
        pairs[f"{ours}.norm"] = f"{theirs}.norm"
        if bare:
            pairs[f"{ours}.skip"] = f"{theirs}.shortcut"
        else:
            pairs[f"{ours}.skip.conv"] = f"{theirs}.shortcut.conv"
            pairs[f"{ours}.skip.norm"] = f"{theirs}.shortcut.bn"
        for unit in range(1, units + 1):
            names = _PRE_ACTIVATED_UNIT if bare else _UNIT
            for our_leaf, their_leaf in names.items():
                here, there = f"{ours}.units.conv{unit}", f"{theirs}.stack.conv{unit}"
                pairs[f"{here}.{our_leaf}"] = f"{there}.{their_leaf}"
    return pairs


_UNIT = {
    "depthwise": "conv_dw",
    "depthwise_norm": "bn_dw",
    "pointwise": "conv_pw",
    "pointwise_norm": "bn_pw",
}
_PRE_ACTIVATED_UNIT = {
    "norm": "norm",
    "conv.depthwise": "conv_dw",
    "conv.pointwise": "conv_pw",
}


def _blocks(layout: AlignedLayout) -> list[tuple[str, int]]:
    """Our name of each block and its number of convolutions, from input to output."""
    flows = {"entry_flow": layout.entry, "middle_flow": layout.middle, "exit_flow": layout.exit}
    return [
        (f"{flow}.{index}", len(block.channels))
        for flow, blocks in flows.items()
        for index, block in enumerate(blocks)
    ]


_COUNTERPARTS = {name: _counterpart(name, layout) for name, layout in _LAYOUTS.items()}


def _which(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """The network with this number and form of blocks, or else that of most equal tensors."""
    numbers = [int(m[1]) for m in (_MARK.search(n, len(prefix)) for n in tensors) if m]
    pre_activation = not any(".bn_dw." in name for name in tensors)
    for name, layout in _LAYOUTS.items():
        count = len(_blocks(layout))
        if (count, layout.pre_activation) == (1 + max(numbers), pre_activation):
            return name
    return max(_COUNTERPARTS, key=lambda name: _equal(_COUNTERPARTS[name], tensors, prefix))


def _equal(counterpart: Counterpart, tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many tensors have the name and shape of one of the network's."""
    model = counterpart.skeleton(num_classes=0, in_channels=3)
    names, wanted = counterpart.names(model), model.state_dict()
    found = {ours: tensors.get(prefix + theirs) for ours, theirs in names.items()}
    return sum(t is not None and t.shape == wanted[ours].shape for ours, t in found.items())


def _choices(model: Classifier, counterpart: Counterpart) -> tuple[str, ...]:
    like = counterpart.library
    return (
        *network_choices(model, like),
        "the file does not say the output stride: 32, as timm builds the network by default",
        "the file does not say the dropout before the last layer: none",
        *picture_choices(model, _PICTURES_LIKE[counterpart.name]),
        class_choice(model.num_classes),
    )


_PICTURES_LIKE = {  # the weights that timm takes for the name alone
    "xception41": "timm's xception41.tf_in1k",
    "xception65": "timm's xception65.ra3_in1k (its xception65.tf_in1k has 0.903)",
    "xception71": "timm's xception71.tf_in1k",
    "xception41p": "timm's xception41p.ra3_in1k",
    "xception65p": "timm's xception65p.ra3_in1k",
}
