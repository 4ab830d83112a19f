"""Where and in which precision a run computes, and its trackers: a thin use of accelerate."""

from __future__ import annotations

import os
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
from xception.training.recipe import Recipe

_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Runtime:
    """Device, autocast, backward and trackers of one run."""

    def __init__(self, recipe: Recipe) -> None:
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise UsageError(
                "training in several processes is not offered yet; start one process, without "
                "torchrun (WORLD_SIZE is set)"
            )
        self.recipe = recipe
        self.device = usable_device(None if recipe.device == "auto" else recipe.device)
        if recipe.precision == "fp16" and self.device.type == "cpu":
            raise RecipeError("recipe field precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        # accelerate keeps its settings for the whole process; a run brings its own.
        for shared in (AcceleratorState, PartialState, GradientState):
            shared._reset_state()
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu",
            mixed_precision=_MIXED_PRECISION[recipe.precision],
        )
        self._tracked = False

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
        return f"{self.device}{threads}, {self.recipe.precision}"

    def place(self, model: Classifier) -> Classifier:
        """Move the model to the device."""
        return model.to(self.device)

    def network(self, model: Classifier) -> nn.Module:
        """What the loop calls: the model itself, compiled if the recipe says so."""
        return torch.compile(model) if self.recipe.compile else model  # type: ignore[return-value]

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def backward_and_step(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, clip_norm: float
    ) -> None:
        """Gradients, their bound, the optimizer's step (fp16: scaled so as not to underflow)."""
        scaler = self.scaler
        scaled = loss if scaler is None else scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        if clip_norm > 0:
            if scaler is not None:
                scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    def start_trackers(self, folder: Path, recipe: Recipe) -> None:
        """Open those of the recipe's trackers that are installed."""
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
            self.accelerator.end_training()
            self._tracked = False


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
