"""Any network's depthwise and pointwise convolutions by this package's kernels."""

from xception.fusion.report import Entry, FusionReport
from xception.fusion.swapping import fuse, unfuse

__all__ = ["Entry", "FusionReport", "fuse", "unfuse"]
