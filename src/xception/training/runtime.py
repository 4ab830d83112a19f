"""Where and in which precision a run computes, and its trackers: a thin use of accelerate."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn

from xception.device import usable_device
from xception.errors import RecipeError, UsageError
from xception.models import Classifier
from xception.nn import convert_sync_batchnorm
from xception.processes import Processes
from xception.training.recipe import Recipe

_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Runtime:
    """Processes, device, autocast and trackers of one run."""

    def __init__(self, recipe: Recipe, processes: Processes | None = None) -> None:
        self.recipe = recipe
        self.processes = processes or Processes()
        self.device = self.processes.own_device(usable_device(_named(recipe.device)))
        if recipe.precision == "fp16" and self.device.type == "cpu":
            raise RecipeError("recipe field precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        self.processes.join(self.device)
        # accelerate keeps its settings for the whole process; a run brings its own.
        for shared in (AcceleratorState, PartialState, GradientState):
            shared._reset_state()
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            mixed_precision=_MIXED_PRECISION[recipe.precision],
        )
        if self.accelerator.num_processes != self.processes.count:
            raise UsageError(
                f"the launcher started {self.accelerator.num_processes} processes, but RANK and "
                f"WORLD_SIZE tell of {self.processes.count}; start them by torchrun"
            )
        self._tracked = False

    @property
    def has_common_statistics(self) -> bool:
        """Whether batch normalization takes its statistics over all processes."""
        return self.recipe.sync_bn and self.processes.are_several

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What keeps fp16 gradients from underflowing; None in other precisions."""
        return self.accelerator.scaler

    @property
    def reads_are_free(self) -> bool:
        """True where reading a loss does not wait for another processor."""
        return self.device.type == "cpu"

    def description(self) -> str:
        threads = f", {torch.get_num_threads()} threads" if self.reads_are_free else ""
        processes = f"{self.processes.count} processes on " if self.processes.are_several else ""
        return f"{processes}{self.device}{threads}, {self.recipe.precision}"

    def place(self, model: Classifier) -> Classifier:
        """Move the model to the device; its batch normalization as the recipe wants it."""
        if self.has_common_statistics:
            model = convert_sync_batchnorm(model)
        return model.to(self.device)

    def network(self, model: Classifier) -> nn.Module:
        """What the loop calls: the model itself, compiled if the recipe says so."""
        return torch.compile(model) if self.recipe.compile else model  # type: ignore[return-value]

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def start_trackers(self, folder: Path, recipe: Recipe) -> None:
        """Open those of the recipe's trackers that are installed, in the first process."""
        if not self.processes.is_first:
            return
        names = [name for name in recipe.trackers if name not in missing_trackers(recipe)]
        if not names:
            return
        from accelerate.tracking import filter_trackers

        self.accelerator.log_with = filter_trackers(names, str(folder))
        self.accelerator.project_configuration.set_directories(str(folder))
        self.accelerator.init_trackers("events", config=_flat(recipe))
        self._tracked = True

    def track(self, row: dict[str, Any]) -> None:
        """Hand one epoch's figures to the trackers."""
        if self._tracked:
            values = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
            self.accelerator.log(values, step=row["step"])

    def end_trackers(self) -> None:
        if self._tracked:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self._tracked = False


def _named(device: str) -> str | None:
    return None if device == "auto" else device


def missing_trackers(recipe: Recipe) -> list[str]:
    """The recipe's trackers that are not installed; raises UsageError for unknown names."""
    if not recipe.trackers:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    for name in recipe.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise UsageError(f"recipe field trackers: {name!r} is unknown; known: {known}")
    available = {str(getattr(t, "value", t)) for t in get_available_trackers()}
    return [name for name in recipe.trackers if name not in available]


def _flat(recipe: Recipe) -> dict[str, Any]:
    """The recipe in the types that every tracker takes."""
    return {
        name: value if isinstance(value, (int, float, str, bool)) else str(value)
        for name, value in recipe.to_dict().items()
    }
