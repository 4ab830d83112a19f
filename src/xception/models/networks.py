"""The registered networks. Builders of one family differ only in numbers."""

from __future__ import annotations

from functools import partial

from xception.models.aligned import AlignedXception
from xception.models.aligned_layout import (
    ALIGNED_41,
    ALIGNED_41P,
    ALIGNED_65,
    ALIGNED_65P,
    ALIGNED_71,
    AlignedLayout,
)
from xception.models.layout import PAPER, SMALL, TINY
from xception.models.mini_xception import MiniXception
from xception.models.preprocessing import Preprocessing
from xception.models.registry import ModelEntry, register
from xception.models.xception import Xception

_KERAS_299 = Preprocessing(size=(299, 299), interpolation="bilinear")
_PICTURES_32 = Preprocessing(size=(32, 32), interpolation="bilinear")

register(
    ModelEntry(
        name="xception",
        summary="the paper's network, Keras's numerics",
        build=partial(Xception, PAPER),
        preprocessing=_KERAS_299,
    )
)


def _register_aligned(
    name: str, summary: str, layout: AlignedLayout, crop_fraction: float, bn_eps: float = 1e-3
) -> None:
    """The preprocessing is that of timm's published weights of the same name."""
    register(
        ModelEntry(
            name=name,
            summary=summary,
            build=partial(AlignedXception, layout, bn_eps=bn_eps),
            preprocessing=Preprocessing(crop_fraction=crop_fraction, interpolation="bicubic"),
        )
    )


_register_aligned(
    "xception41",
    "DeepLab's aligned network, 41 layers",
    ALIGNED_41,
    0.903,
)
_register_aligned(
    "xception65",
    "DeepLab's aligned network, 65 layers",
    ALIGNED_65,
    0.94,
)
_register_aligned(
    "xception71",
    "DeepLab's aligned network, 71 layers",
    ALIGNED_71,
    0.903,
)
_register_aligned(
    "xception41p",
    "pre-activation form of xception41",
    ALIGNED_41P,
    0.94,
    bn_eps=1e-5,  # timm's, which has 1e-3 in the four others
)
_register_aligned(
    "xception65p",
    "pre-activation form of xception65",
    ALIGNED_65P,
    0.94,
)

register(
    ModelEntry(
        name="xception_tiny",
        summary="for pictures of 28 to 64 px on a CPU",
        build=partial(Xception, TINY, bn_momentum=0.1),
        preprocessing=_PICTURES_32,
    )
)
register(
    ModelEntry(
        name="xception_small",
        summary="for pictures of 28 to 64 pixels",
        build=partial(Xception, SMALL, bn_momentum=0.1),
        preprocessing=_PICTURES_32,
    )
)
register(
    ModelEntry(
        name="mini_xception",
        summary="for grey faces (Arriaga et al. 2017)",
        build=MiniXception,
        preprocessing=Preprocessing(  # fer's, which scales the rectangle of a face to a square
            size=(64, 64), resize="squash", mean=(0.5,), std=(0.5,), channels=1
        ),
    )
)
