"""What can come out of an exported network: its logits, or the features before them.

"logits"      (N, num_classes): `forward(x)`
"pre_logits"  (N, head.num_features): what enters the last layer
"pool"        (N, num_features): right behind the global pooling, before further layers of the head
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from xception.errors import UsageError
from xception.models import Classifier

Output = Literal["logits", "pre_logits", "pool"]


def check_output(output: str) -> None:
    """Raise UsageError unless `output` is one of the three names."""
    if output not in get_args(Output):
        raise UsageError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")


class NetworkOutput(nn.Module):
    """A network of which `output` comes out.

    x: (N, in_channels, H, W) -> (N, width)
    """

    def __init__(self, network: Classifier, output: Output) -> None:
        super().__init__()
        check_output(output)
        self.network = network
        self.output = output

    @property
    def width(self) -> int:
        """Numbers that come out for a picture."""
        if self.output == "pool":
            return self.network.num_features
        if self.output == "pre_logits" or self.network.num_classes == 0:
            return self.network.head.num_features
        return self.network.num_classes

    def forward(self, x: Tensor) -> Tensor:
        if self.output == "logits":
            return self.network(x)
        maps = self.network.forward_features(x)
        if self.output == "pool":
            return self.network.head.get_submodule("pool")(maps).flatten(1)
        return self.network.forward_head(maps, pre_logits=True)
