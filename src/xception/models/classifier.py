"""What every network here offers, under the names that users of timm know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from xception.models.checkpointing import checkpoint_block
from xception.models.head import Head
from xception.models.preprocessing import Preprocessing


class TappedStage(Protocol):
    """A stage one of whose feature maps lies inside it."""

    def forward_with_tap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stage's output and the feature map inside."""
        ...

    def end_at_tap(self) -> None:
        """Drop the layers after the feature map; the stage returns it from now on."""
        ...


class Classifier(nn.Module):
    """Stages of feature extraction and a head; a network fills in `stages()`.

    x: (N, in_channels, H, W) -> (N, num_classes) logits.

    Attributes that travel with the model file:
    architecture: {"name": registry name, "args": what `resolved_arguments` gives}
    class_names: one name a class, or None when they are not known
    preprocessing: how a picture becomes the input
    feature_info: one dict a feature map, finest first: `num_chs` channels, `reduction` (input
        pixels a feature pixel), `module` (whose output it is: a stage, or a module inside a
        `TappedStage`). Their number does not depend on output_stride, as in timm.
    """

    head: Head
    feature_info: list[dict[str, Any]]
    preprocessing: Preprocessing

    def __init__(self, num_classes: int, in_channels: int, minimum_size: int) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be positive, got {in_channels}")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.minimum_size = minimum_size
        self.architecture: dict[str, Any] = {}
        self.class_names: list[str] | None = None
        self.preprocessing = Preprocessing()
        self._checkpointing = False

    def stages(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules from input to feature map in order, with their names in the state dict."""
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """Channels of the feature map that `forward_features` returns."""
        return int(self.feature_info[-1]["num_chs"])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """x: (N, in_channels, H, W) -> (N, num_features, h, w), before pooling.

        Raises ValueError when x is smaller than the network's minimum or has other channels.
        """
        self._check_input(x)
        x, done = self._run_first(x)
        for _, stage in list(self.stages())[done:]:
            x = self._run(stage, x)
        return x

    def _run_first(self, x: Tensor) -> tuple[Tensor, int]:
        """What the first stages make of x, and how many they are; for those that run as one."""
        return x, 0

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map -> (N, num_classes) logits.

        pre_logits: (N, features) instead, which come out when there are no classes
        """
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """The feature maps of `feature_info` at the (increasing) `indices`, finest first."""
        self._check_input(x)
        wanted = [self.feature_info[i]["module"] for i in indices]
        found: list[Tensor] = []
        for name, stage in self.stages():
            if any(module.startswith(f"{name}.") for module in wanted):
                x, tap = self._run(stage, x, cast(TappedStage, stage).forward_with_tap)
                found.append(tap)
            else:
                x = self._run(stage, x)
                if name in wanted:
                    found.append(x)
            if len(found) == len(wanted):
                break
        return found

    def keep_features(self, index: int) -> None:
        """Drop the head and every layer that the feature map at `index` does not need."""
        wanted = self.feature_info[index]["module"]
        reached = False
        for name, stage in list(self.stages()):
            if reached:
                self.set_submodule(name, nn.Identity())
            elif wanted.startswith(f"{name}."):
                cast(TappedStage, stage).end_at_tap()
                reached = True
            else:
                reached = name == wanted
        self.head = nn.Identity()  # type: ignore[assignment]

    def get_classifier(self) -> nn.Module:
        """The last layer with weights: `Linear` or `Conv2d`; `Identity` if there are no classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last layer for `num_classes` (0: pooled features come out); names are dropped."""
        self.head.reset(num_classes, like=next(self.parameters()))
        self.num_classes = num_classes
        self.class_names = None
        if self.architecture:
            self.architecture["args"]["num_classes"] = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each stage's input for backward: less memory, about a third more compute."""
        self._checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions that sort parameters into layer groups, from input to output.

        For learning rates that differ by depth: the stem is one group, each block one (each flow
        when `coarse`), then the tail; what matches nothing is the head. timm's
        `group_parameters(model, model.group_matcher())` reads it.
        """
        block = "" if coarse else r"\.(\d+)"
        return {
            "stem": r"^stem",
            "entry_flow": rf"^entry_flow{block}",
            "middle_flow": rf"^middle_flow{block}",
            "exit_flow": rf"^exit_flow{block}",
            "tail": r"^tail",
        }

    def _run(
        self, stage: nn.Module, x: Tensor, forward: Callable[[Tensor], Any] | None = None
    ) -> Any:
        """`stage(x)`, or its method `forward(x)`, checkpointed when that is asked for."""
        if self._checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint_block(stage, x, forward)
        return stage(x) if forward is None else forward(x)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        if x.shape[2] < self.minimum_size or x.shape[3] < self.minimum_size:
            raise ValueError(
                f"pictures must be at least {self.minimum_size}x{self.minimum_size} pixels for "
                f"this network, got {x.shape[2]}x{x.shape[3]}"
            )


class FeatureExtractor(nn.Module):
    """A network without its head: x -> list of feature maps, finest first (`features_only`).

    `feature_info` describes the maps that come back; `out_indices` picks among the network's
    (negative ones count from the coarsest). Layers after the last map are dropped.
    Raises ValueError when `out_indices` names none or one that there is not.
    """

    def __init__(self, network: Classifier, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        count = len(network.feature_info)
        chosen = range(count) if out_indices is None else out_indices
        indices = [i + count if i < 0 else i for i in chosen]
        if not indices or any(not 0 <= i < count for i in indices):
            raise ValueError(
                f"out_indices must name some of the {count} feature maps, got {out_indices!r}"
            )
        self.out_indices = sorted(set(indices))
        self.network = network
        network.keep_features(self.out_indices[-1])  # no unused parameters under DDP
        self.feature_info = [network.feature_info[i] for i in self.out_indices]
        self.preprocessing = network.preprocessing

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.network.forward_intermediates(x, self.out_indices)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As `Classifier.set_grad_checkpointing`."""
        self.network.set_grad_checkpointing(enable)
