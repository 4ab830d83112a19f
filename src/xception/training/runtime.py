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
from xception.training.recipe import Recipe

_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Runtime:
    """Device, autocast, backward and trackers of one run."""

    def __init__(self, recipe: Recipe) -> None:
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
        self.accelerator.backward(loss)
        scaler = self.accelerator.scaler
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
        """Open the recipe's trackers; raises UsageError naming one that is not installed."""
        if not recipe.trackers:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

        known = set(LOGGER_TYPE_TO_CLASS)
        for name in recipe.trackers:
            if name not in known:
                raise UsageError(
                    f"recipe field trackers: {name!r} is unknown; known: {sorted(known)}"
                )
        available = [
            getattr(t, "value", str(t)) for t in filter_trackers(list(recipe.trackers), str(folder))
        ]
        for name in recipe.trackers:
            if name not in available:
                raise UsageError(
                    f"tracker {name} is not installed; run pip install {name}, or leave it out "
                    "with --trackers"
                )
        self.accelerator.log_with = filter_trackers(list(recipe.trackers), str(folder))
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


def _flat(recipe: Recipe) -> dict[str, Any]:
    """The recipe in the types that every tracker takes."""
    return {
        name: value if isinstance(value, (int, float, str, bool)) else str(value)
        for name, value in recipe.to_dict().items()
    }
