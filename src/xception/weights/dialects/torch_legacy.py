"""The paper's network in PyTorch: timm's legacy_xception, Cadene's, FaceForensics++'s.

One port of the Keras weights (by T. Standley) went from hand to hand: blocks, names and numerics
are the same, the last layer's name and the preparation of pictures are not. Sources:
https://github.com/huggingface/pytorch-image-models (timm/models/xception.py),
https://github.com/Cadene/pretrained-models.pytorch (pretrainedmodels/models/xception.py, utils.py),
https://github.com/ondyari/FaceForensics (classification/network/models.py,
classification/dataset/transform.py, classification/detect_from_video.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from xception.models import Classifier, Preprocessing
from xception.models.layout import PAPER, Layout
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
from xception.weights.wording import listed

_MARK = re.compile(r"block\d+\.rep\.\d+\.(?:conv1|pointwise)\.weight$")
_LAST_LAYER = re.compile(r"((?:fc|last_linear|head\.fc|classifier)(?:\.\d{1,3})?)\.(?:weight|bias)")
_MODEL = re.compile(r"(?:module\.|_orig_mod\.)*model\.")  # the attribute in FaceForensics++
_LIBRARY = "timm's legacy_xception"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Whose file it is, as far as names tell."""

    name: str
    like: str  # how the report calls the one whose preparation of pictures is chosen
    preprocessing: Preprocessing


_TIMM = _Source(
    name="timm legacy_xception",
    like="timm's legacy_xception.tf_in1k",
    preprocessing=Preprocessing(crop_fraction=0.8975, interpolation="bicubic"),
)
_CADENE = _Source(
    name="Cadene xception",
    like="Cadene's TransformImage with the settings of xception",
    preprocessing=Preprocessing(crop_fraction=0.8975, interpolation="bilinear"),
)
_FACE_FORENSICS = _Source(
    name="FaceForensics++ xception",
    like="FaceForensics++'s xception_default_data_transforms",
    preprocessing=Preprocessing(resize="squash", interpolation="bilinear"),
)


def recognise(contents: FileContents) -> Imported | None:
    """The classifier in `contents`; None when its names are not those of this port.

    The last layer may be called fc, last_linear, head.fc or classifier, stand in a sequence
    (last_linear.1) or be missing; everything may stand under a prefix; pointwise weights may be
    (out, in). The dtype stays.

    Raises ValueError when the names are this port's but tensors are missing, left over, of another
    shape or dtype, or hold no usable numbers.
    """
    prefix = prefix_of(contents.tensors, _MARK, _LIBRARY)
    if prefix is None:
        return None
    last_layer = _last_layer(contents.tensors, prefix)
    num_classes = num_classes_of(contents.tensors, prefix + last_layer)
    stem, _ = PAPER.stem[0]
    in_channels = in_channels_of(contents.tensors.get(f"{prefix}conv1.weight"), stem)
    source = _source(contents, prefix, last_layer, num_classes)

    dropout = 0.5 if _follows_others(last_layer) else 0.0
    port = _port(last_layer)
    model = port.skeleton(num_classes, in_channels, dropout=dropout)
    if num_classes == 2 and source is _FACE_FORENSICS and _is_certain(contents, last_layer):
        model.class_names = ["real", "fake"]
    model.preprocessing = prepared_for(source.preprocessing, in_channels)
    report = fill(
        model,
        {ours: prefix + theirs for ours, theirs in port.names(model).items()},
        {name: _with_four_axes(name, tensor) for name, tensor in contents.tensors.items()},
        library=_LIBRARY,
        dialect=f"{source.name}, {contents.kind}",
        choices=_choices(model, source),
    )
    return Imported(model=model, report=report)


def to_timm(model: Classifier) -> dict[str, Tensor]:
    """The state dict that timm's `legacy_xception` loads with strict=True; tensors are shared.

    Raises ValueError naming the arguments of `model` under which it computes what timm's cannot
    (dropout and bn_momentum, which change no output in eval mode, may differ).
    """
    return exported(model, _port())


def to_cadene(model: Classifier) -> dict[str, Tensor]:
    """As `to_timm`, under the names of Cadene's `pretrainedmodels.xception`."""
    return exported(model, _port("last_linear", "Cadene's xception"))


def timm_tensors(contents: FileContents) -> dict[str, Tensor]:
    """The tensors of a file that `recognise` took, under the names they have in timm."""
    prefix = prefix_of(contents.tensors, _MARK, _LIBRARY) or ""
    last_layer = prefix + _last_layer(contents.tensors, prefix) + "."
    renamed: dict[str, Tensor] = {}
    for name, tensor in contents.tensors.items():
        is_last = name.startswith(last_layer)
        rest = f"fc.{name[len(last_layer) :]}" if is_last else name[len(prefix) :]
        renamed[rest] = _with_four_axes(name, tensor)
    return renamed


def _port(last_layer: str = "fc", library: str = _LIBRARY) -> Counterpart:
    return Counterpart(
        library=library,
        name="xception",
        modules={**_modules(PAPER), "head.fc": last_layer},
        arguments={"padding": "torch", "bn_eps": 1e-5, "bn_momentum": 0.1},
        any_of={"output_stride": (None, 32)},
        instead="keep it as a model file of xception, or convert it to keras",
    )


def _modules(layout: Layout) -> dict[str, str]:
    """Our modules with tensors below the last layer -> timm's."""
    pairs: dict[str, str] = {}
    for number in range(1, len(layout.stem) + 1):
        pairs[f"stem.conv{number}"] = f"conv{number}"
        pairs[f"stem.norm{number}"] = f"bn{number}"
    flows = {"entry_flow": layout.entry, "middle_flow": layout.middle, "exit_flow": layout.exit}
    number = 0
    for flow, blocks in flows.items():
        for index, block in enumerate(blocks):
            number += 1
            ours, theirs = f"{flow}.{index}", f"block{number}"
            pairs[f"{ours}.skip.conv"] = f"{theirs}.skip"
            pairs[f"{ours}.skip.norm"] = f"{theirs}.skipbn"
            for unit in range(len(block.channels)):
                # Their sequence is ReLU, convolution, normalization, and so on.
                place = 3 * unit + (1 if block.leading_activation else 0)
                pairs |= _unit(f"{ours}.units.{unit}", f"{theirs}.rep.{place}")
                pairs[f"{ours}.units.{unit}.norm"] = f"{theirs}.rep.{place + 1}"
    for unit in range(len(layout.tail)):
        number = len(layout.stem) + 1 + unit
        ours = f"tail.{2 * unit}"  # a ReLU follows each
        pairs |= _unit(ours, f"conv{number}")
        pairs[f"{ours}.norm"] = f"bn{number}"
    return pairs


def _unit(ours: str, theirs: str) -> dict[str, str]:
    return {
        f"{ours}.conv.depthwise": f"{theirs}.conv1",
        f"{ours}.conv.pointwise": f"{theirs}.pointwise",
    }


def _last_layer(names: Iterable[str], prefix: str) -> str:
    """The last layer's name without the prefix; "fc" when there is none."""
    found: dict[str, None] = {}
    for name in names:
        match = _LAST_LAYER.fullmatch(name, len(prefix)) if name.startswith(prefix) else None
        if match:
            found.setdefault(match[1])
    if len(found) > 1:
        raise ValueError(
            f"has several layers after the pooling ({listed(found)}), and state dicts do not say "
            "what lies between them; give a network with one last layer"
        )
    return next(iter(found), "fc")


def _with_four_axes(name: str, tensor: Tensor) -> Tensor:
    """The first files of this port hold pointwise weights as matrices."""
    if tensor.dim() == 2 and name.endswith(".pointwise.weight"):
        return tensor[:, :, None, None]
    return tensor


def _follows_others(last_layer: str) -> bool:
    """Whether layers without weights stand before it in a sequence."""
    place = last_layer.rpartition(".")[2]
    return place.isdigit() and int(place) > 0


def _source(contents: FileContents, prefix: str, last_layer: str, num_classes: int) -> _Source:
    if _is_certain(contents, last_layer):
        return _FACE_FORENSICS
    if last_layer.startswith("last_linear"):  # 1000 classes are ImageNet's, not faces
        return _FACE_FORENSICS if _MODEL.fullmatch(prefix) and num_classes != 1000 else _CADENE
    has_matrices = any(
        name.endswith(".pointwise.weight") and tensor.dim() == 2
        for name, tensor in contents.tensors.items()
    )
    return _CADENE if has_matrices else _TIMM  # Cadene's first file had "fc"


def _is_certain(contents: FileContents, last_layer: str) -> bool:
    """Whether the file is of FaceForensics++'s own class, or has its sequence of two layers."""
    return "TransferModel" in contents.origin or last_layer == "last_linear.1"


def _choices(model: Classifier, source: _Source) -> tuple[str, ...]:
    dropout = model.architecture["args"]["dropout"]
    if dropout:
        before = "the file does not say what stands before the last layer: a dropout of "
        training = f"{before}{dropout:g}, as FaceForensics++'s code is used; it acts in training"
    else:
        training = "the file does not say the dropout before the last layer: none"
    if model.class_names:
        names = " and ".join(model.class_names)
        classes = (
            f"the file does not name its classes: {names}, as FaceForensics++'s detect_from_video "
            "reads outputs 0 and 1; somebody else's training may have them the other way round"
        )
    else:
        classes = class_choice(model.num_classes)
        if source is _FACE_FORENSICS and model.num_classes == 2:
            classes += " (FaceForensics++ has 0 real, 1 fake)"
    faces = (
        "FaceForensics++ shows the network faces alone: squares of 1.3 times the face's box, which "
        "are to be cut out before"
    )
    return (
        *network_choices(model, _LIBRARY),
        training,
        *picture_choices(model, source.like),
        *((faces,) if source is _FACE_FORENSICS else ()),
        classes,
    )
