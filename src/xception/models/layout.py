"""What differs between the networks of the paper's form: numbers alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockLayout:
    """One module of Fig. 5: separable convolutions one after the other, and how it ends."""

    channels: tuple[int, ...]  # output channels of each separable convolution
    pool: bool = False  # ends in a 3x3 max pool of stride 2, with a strided 1x1 skip
    leading_activation: bool = True  # ReLU before the first convolution (not in the first module)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Stem, the three flows, and the separable convolutions after the last module."""

    stem: tuple[tuple[int, int], ...]  # (channels, stride) of each regular 3x3 convolution
    stem_padded: bool  # False: no padding, as the paper's network has it
    entry: tuple[BlockLayout, ...]
    middle: tuple[BlockLayout, ...]
    exit: tuple[BlockLayout, ...]
    tail: tuple[int, ...]  # channels of the separable convolutions after the exit module
    tail_activation: bool = True  # ReLU after the exit module, where `tail` is empty
    minimum_size: int  # pixels; the least height and width the network accepts


_MIDDLE_728 = BlockLayout(channels=(728, 728, 728))

PAPER = Layout(  # Fig. 5
    stem=((32, 2), (64, 1)),
    stem_padded=False,
    entry=(
        BlockLayout(channels=(128, 128), pool=True, leading_activation=False),
        BlockLayout(channels=(256, 256), pool=True),
        BlockLayout(channels=(728, 728), pool=True),
    ),
    middle=(_MIDDLE_728,) * 8,
    exit=(BlockLayout(channels=(728, 1024), pool=True),),
    tail=(1536, 2048),
    minimum_size=71,
)

TINY = Layout(  # 0.29 M parameters at 10 classes, for pictures of 28 to 64 pixels; our own numbers
    stem=((32, 1),),
    stem_padded=True,
    entry=(
        BlockLayout(channels=(64, 64), pool=True, leading_activation=False),
        BlockLayout(channels=(128, 128), pool=True),
    ),
    middle=(BlockLayout(channels=(128, 128, 128)),) * 2,
    exit=(BlockLayout(channels=(256, 256), pool=True),),
    tail=(),
    minimum_size=16,
)

SMALL = Layout(  # 1.5 M parameters at 10 classes, for pictures of 28 to 64 pixels; our own numbers
    stem=((32, 1), (64, 1)),
    stem_padded=True,
    entry=(
        BlockLayout(channels=(128, 128), pool=True, leading_activation=False),
        BlockLayout(channels=(256, 256), pool=True),
    ),
    middle=(BlockLayout(channels=(256, 256, 256)),) * 4,
    exit=(BlockLayout(channels=(256, 384), pool=True),),
    tail=(512,),
    minimum_size=16,
)

MINI = Layout(  # the mini-Xception of Arriaga et al. 2017, for faces of 64 pixels
    stem=((8, 1), (8, 1)),
    stem_padded=False,
    entry=(
        BlockLayout(channels=(16, 16), pool=True, leading_activation=False),
        BlockLayout(channels=(32, 32), pool=True, leading_activation=False),
        BlockLayout(channels=(64, 64), pool=True, leading_activation=False),
    ),
    middle=(),
    exit=(BlockLayout(channels=(128, 128), pool=True, leading_activation=False),),
    tail=(),
    tail_activation=False,
    minimum_size=16,
)
