"""Everything of a run that changes from step to step, and its way to disk and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xception.data.dataset import mixed
from xception.errors import TrainingError
from xception.models import Classifier
from xception.processes import Processes
from xception.training.optim import AveragedWeights, make_optimizer
from xception.training.recipe import Recipe


@dataclass(slots=True)
class EpochTotals:
    """Sums over the epoch so far."""

    pictures: int = 0
    loss: float = 0.0  # summed over pictures
    correct: int = 0
    seconds: float = 0.0  # of training, validation left out

    def mean_loss(self) -> float:
        return self.loss / max(self.pictures, 1)

    def accuracy(self) -> float:
        return self.correct / max(self.pictures, 1)


@dataclass(slots=True)
class Position:
    """Where the run stands. `epoch` counts finished epochs, `batch` batches of the one begun."""

    epoch: int = 0
    batch: int = 0
    step: int = 0  # optimizer steps of the whole run
    best_accuracy: float = -1.0  # on validation; -1 before the first
    best_epoch: int = 0
    last_accuracy: float | None = None  # on validation, of the last finished epoch
    totals: EpochTotals = field(default_factory=EpochTotals)


class TrainingState:
    """Model, optimizer, averaged weights, position and random numbers of one run.

    scaler: the loss scaler of fp16, whose scale is part of the state
    """

    def __init__(
        self, model: Classifier, recipe: Recipe, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.device = next(model.parameters()).device
        self.scaler = scaler
        self.optimizer = make_optimizer(model, model.head, recipe)
        self.averaged = AveragedWeights(model, recipe.averaging) if recipe.averaging > 0 else None
        self.position = Position()
        self.data_digest = ""  # of the pictures, to notice other ones on a resume
        self.unreadable: dict[str, str] = {}  # pictures that could not be read: name, reason
        self._evaluation_model: Classifier | None = None

    def evaluation_model(self) -> Classifier:
        """A network in eval mode with the averaged weights (the trained ones without averaging)."""
        return self.model_with(
            self.model.state_dict() if self.averaged is None else self.averaged.state
        )

    def model_with(self, weights: dict[str, Tensor]) -> Classifier:
        """The network for evaluation with these weights; one copy serves the whole run."""
        if self._evaluation_model is None:
            self._evaluation_model = copy.deepcopy(self.model).requires_grad_(False).eval()
        self._evaluation_model.load_state_dict(weights)
        return self._evaluation_model

    def set_frozen(self, frozen: bool) -> None:
        """Train the head alone: the rest keeps its weights and its running statistics.

        The recipe may want the latter kept in any case: a few thousand pictures of another kind are
        too few to learn them anew.
        """
        head = set(self.model.head.modules())
        self.model.train()
        for module in self.model.modules():
            if module in head:
                continue
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(not frozen)
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if is_norm and (frozen or self.recipe.freeze_norm):
                module.eval()

    def to_checkpoint(self, processes: Processes) -> dict[str, Any]:
        """Tensors and plain values, enough to go on bit for bit; all processes have to ask."""
        position = self.position
        totals = position.totals
        return {
            "recipe": self.recipe.to_dict(),
            "architecture": self.model.architecture,
            "preprocessing": self.model.preprocessing.to_dict(),
            "data": self.data_digest,
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state,
            "averaged_steps": 0 if self.averaged is None else self.averaged.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "position": {
                "epoch": position.epoch,
                "batch": position.batch,
                "step": position.step,
                "best_accuracy": position.best_accuracy,
                "best_epoch": position.best_epoch,
                "last_accuracy": position.last_accuracy,
                "pictures": totals.pictures,
                "loss": totals.loss,
                "correct": totals.correct,
                "seconds": totals.seconds,
            },
            "unreadable": dict(self.unreadable),
            "random": processes.gathered(random_state(self.device)),
        }

    def restore(
        self, checkpoint: dict[str, Any], processes: Processes, warn: Callable[[str], None]
    ) -> None:
        """Go back to what `to_checkpoint` kept; raises TrainingError when it does not fit."""
        try:
            self.model.load_state_dict(checkpoint["model"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.scaler is not None and checkpoint["scaler"] is not None:
                self.scaler.load_state_dict(checkpoint["scaler"])
            if self.averaged is not None:
                averaged = checkpoint["averaged"]
                for name, value in self.averaged.state.items():
                    value.copy_(averaged[name])
                self.averaged.step = checkpoint["averaged_steps"]
            kept = dict(checkpoint["position"])
            totals = EpochTotals(
                **{name: kept.pop(name) for name in ("pictures", "loss", "correct", "seconds")}
            )
            self.position = Position(totals=totals, **kept)
            self.unreadable = dict(checkpoint["unreadable"])
            kept_states = checkpoint["random"]  # one alone in checkpoints of single processes
            states = kept_states if isinstance(kept_states, list) else [kept_states]
            if len(states) != processes.count:
                warn(
                    f"the run was begun by {len(states)} processes and goes on with "
                    f"{processes.count}: not bit for bit the run that it would have been"
                )
            if processes.index < len(states):
                restore_random_state(states[processes.index], self.device)
            else:
                torch.manual_seed(mixed(self.recipe.seed, processes.index, self.position.step))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            line = str(error).splitlines()[0]
            raise TrainingError(f"the checkpoint does not fit this run's recipe: {line}") from None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators, from which dropout draws: the CPU's and the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_state`; another kind of device starts from its own state."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
