from __future__ import annotations

import pytest
import torch
from torch import nn

from xception.errors import RecipeError
from xception.models import create_model
from xception.training import Recipe
from xception.training.optim import (
    AveragedWeights,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)


def test_paper_step_decay() -> None:
    recipe = Recipe(schedule="step", lr=0.045, warmup=0.0, epochs=20)
    assert learning_rate(recipe, 1.99, 1000) == pytest.approx(0.045)
    assert learning_rate(recipe, 2.0, 1000) == pytest.approx(0.045 * 0.94)
    assert learning_rate(recipe, 7.5, 1000) == pytest.approx(0.045 * 0.94**3)


def test_step_decay_by_pictures() -> None:
    """JFT: times 0.9 every 3,000,000 samples, here on an epoch of 2,000,000."""
    recipe = Recipe(
        schedule="step", lr=0.001, warmup=0.0, epochs=20, step_decay=0.9, step_pictures=3_000_000
    )
    assert learning_rate(recipe, 1.49, 2_000_000) == pytest.approx(0.001)
    assert learning_rate(recipe, 1.5, 2_000_000) == pytest.approx(0.0009)
    assert learning_rate(recipe, 4.6, 2_000_000) == pytest.approx(0.001 * 0.9**3)


@pytest.mark.parametrize(("optimizer", "share"), [("sgd", 0.25), ("adamw", 0.5), ("rmsprop", 0.5)])
def test_the_learning_rate_follows_the_batch_where_the_recipe_names_one(
    optimizer: str, share: float
) -> None:
    recipe = Recipe(
        optimizer=optimizer,
        lr=0.4,
        lr_batch=128,
        batch_size=32,
        schedule="constant",
        warmup=0.0,  # type: ignore[arg-type]
    )
    assert learning_rate(recipe, 3.0, 1000) == pytest.approx(0.4 * share)
    assert learning_rate(recipe.replaced(lr_batch=None), 3.0, 1000) == pytest.approx(0.4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_warm_up_then_down_to_zero(schedule: str) -> None:
    recipe = Recipe(schedule=schedule, lr=0.4, warmup=0.2, epochs=10)  # type: ignore[arg-type]
    assert learning_rate(recipe, 1.0, 1000) == pytest.approx(0.2)
    assert learning_rate(recipe, 2.0, 1000) == pytest.approx(0.4)
    assert learning_rate(recipe, 6.0, 1000) == pytest.approx(0.2)
    assert learning_rate(recipe, 10.0, 1000) == pytest.approx(0.0)


@pytest.mark.parametrize("field", ["lr_batch", "step_pictures"])
def test_of_nothing_there_is_no_rate(field: str) -> None:
    with pytest.raises(RecipeError, match=f"{field} must be at least 1"):
        Recipe(**{field: 0})  # type: ignore[arg-type]


def test_every_parameter_is_in_one_group_and_exemptions_hold() -> None:
    model = create_model("xception_tiny", num_classes=3)
    recipe = Recipe(weight_decay=0.1, backbone_lr=0.5)
    optimizer = make_optimizer(model, model.head.fc, recipe)  # type: ignore[union-attr, arg-type]
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(list(model.parameters()))
    names = {id(p): n for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            exempt = "norm" in name or "depthwise" in name or name.endswith("bias")
            assert group["weight_decay"] == (0.0 if exempt else 0.1), name
            assert group["lr_scale"] == (1.0 if name.startswith("head.fc") else 0.5), name
    set_learning_rate(optimizer, 0.2)
    assert {group["lr"] for group in optimizer.param_groups} == {0.2, 0.1}


def test_layers_further_from_the_classes_learn_more_slowly() -> None:
    model = create_model("xception_tiny", num_classes=3)
    recipe = Recipe(backbone_lr=0.5, layer_decay=0.8)
    optimizer = make_optimizer(model, model.head.fc, recipe)  # type: ignore[union-attr, arg-type]
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    found = {n: scale[id(p)] for n, p in model.named_parameters()}
    blocks = ["exit_flow.0", "middle_flow.1", "middle_flow.0", "entry_flow.1", "entry_flow.0"]
    assert found["head.fc.weight"] == 1.0
    for depth, block in enumerate([*blocks, "stem"], start=1):
        scales = {s for n, s in found.items() if n.startswith(f"{block}.")}
        assert scales == {0.5 * 0.8**depth}, block
    assert len(found) == len(scale)


def test_averaged_weights_follow_the_written_rule() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = AveragedWeights(model, 0.9)
    expected = float(model[0].weight.detach())
    for step in range(30):
        with torch.no_grad():
            model[0].weight.fill_(float(step))
            model[1].num_batches_tracked.fill_(step)
        average.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.state["0.weight"]) == pytest.approx(expected, rel=1e-5)
    assert int(average.state["1.num_batches_tracked"]) == 29
