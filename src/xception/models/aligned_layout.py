"""What differs between the aligned networks (DeepLab's Xceptions): numbers alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedBlockLayout:
    """One block of three separable convolutions; the last of them carries the stride."""

    channels: tuple[int, int, int]  # output channels of each separable convolution
    stride: int = 1
    skip: bool = True  # a residual connection around the block (not around the last one)
    inner_activation: bool = False  # ReLU after each normalization, none before the convolutions


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedLayout:
    """The three flows after a stem of two 3x3 convolutions."""

    entry: tuple[AlignedBlockLayout, ...]
    middle: tuple[AlignedBlockLayout, ...]
    exit: tuple[AlignedBlockLayout, ...]
    pre_activation: bool = False  # normalization and ReLU before each separable convolution
    stem: tuple[int, int] = (32, 64)  # channels; the first has stride 2
    minimum_size: int = 32  # pixels; one feature pixel


def _block(channels: int, stride: int = 1) -> AlignedBlockLayout:
    return AlignedBlockLayout(channels=(channels, channels, channels), stride=stride)


_ENTRY = (_block(128, 2), _block(256, 2), _block(728, 2))
_ENTRY_71 = (_block(128, 2), _block(256), _block(256, 2), _block(728), _block(728, 2))
_EXIT_STRIDED = AlignedBlockLayout(channels=(728, 1024, 1024), stride=2)
_LAST_CHANNELS = (1536, 1536, 2048)
_EXIT = (
    _EXIT_STRIDED,
    AlignedBlockLayout(channels=_LAST_CHANNELS, skip=False, inner_activation=True),
)
_EXIT_PRE_ACTIVATION = (_EXIT_STRIDED, AlignedBlockLayout(channels=_LAST_CHANNELS, skip=False))

ALIGNED_41 = AlignedLayout(entry=_ENTRY, middle=(_block(728),) * 8, exit=_EXIT)
ALIGNED_65 = AlignedLayout(entry=_ENTRY, middle=(_block(728),) * 16, exit=_EXIT)
ALIGNED_71 = AlignedLayout(entry=_ENTRY_71, middle=(_block(728),) * 16, exit=_EXIT)
ALIGNED_41P = AlignedLayout(
    entry=_ENTRY, middle=(_block(728),) * 8, exit=_EXIT_PRE_ACTIVATION, pre_activation=True
)
ALIGNED_65P = AlignedLayout(
    entry=_ENTRY, middle=(_block(728),) * 16, exit=_EXIT_PRE_ACTIVATION, pre_activation=True
)
