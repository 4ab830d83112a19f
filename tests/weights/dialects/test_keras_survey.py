"""At a glance: another network is told apart from one of ours that was changed."""

from __future__ import annotations

from typing import Any

import pytest

from xception.models import resolved_arguments
from xception.weights.dialects.keras_graph import MAX_LAYERS
from xception.weights.dialects.keras_plan import PlannedLayer, plan_of
from xception.weights.dialects.keras_survey import is_like, likeness, survey, told_apart
from xception.weights.skeleton import build_skeleton


@pytest.fixture(scope="module")
def plan() -> list[PlannedLayer]:
    arguments = resolved_arguments("xception_tiny")
    return plan_of(build_skeleton({"name": "xception_tiny", "args": arguments}))


def model(layers: list[Any], name: str = "a", kind: str = "Functional") -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "layers": layers}}


def layer(kind: str, filters: Any = None) -> dict[str, Any]:
    return {"class_name": kind, "config": {"filters": filters}}


def as_planned(plan: list[PlannedLayer]) -> list[dict[str, Any]]:
    return [layer(p.kind, p.settings.get("filters")) for p in plan]


def test_models_in_models_are_one(plan: list[PlannedLayer]) -> None:
    layers = as_planned(plan)
    inner = model(layers[9:], "body", "Sequential")
    found = survey(model([*layers[:9], layer("ReLU"), inner], "outer"))
    assert found.name == "body"
    assert likeness(found, plan) == 1 and is_like(found, plan)


def test_a_changed_network_stays_like_itself(plan: list[PlannedLayer]) -> None:
    half = [layer(p.kind, p.settings.get("filters", 0) // 2) for p in plan]
    assert is_like(survey(model(half)), plan)  # other filters, as many layers
    assert is_like(survey(model(as_planned(plan)[:-9])), plan)
    assert not is_like(survey(model([layer("Conv2D", 64)] * 20)), plan)


def test_what_was_found_and_what_was_looked_for(plan: list[PlannedLayer]) -> None:
    found = survey(model([layer("Conv2D"), layer("DepthwiseConv2D"), layer("Conv2D")], "mob\n"))
    said = told_apart(found, plan, "ours")
    assert "its model 'mob\\\\n' has 2 Conv2D and 1 DepthwiseConv2D layers, where ours has" in said
    assert "12 SeparableConv2D and 4 Conv2D layers" in said
    assert "has no convolution, where" in told_apart(survey(model([])), plan, "ours")


@pytest.mark.parametrize(
    "config",
    [
        None, 3, [], {}, {"class_name": []}, {"class_name": "Conv2D"}, model([None, 7, [], {}]),
        {"class_name": "Functional", "config": None}, {"class_name": "Model", "config": "x"},
        model([layer("Conv2D", {"a": []}), layer("Conv2D", 2**70)]),
        {"class_name": "Sequential", "config": [layer("Conv2D", 3)]},
    ],
)  # fmt: skip
def test_anything_can_be_looked_through(config: Any, plan: list[PlannedLayer]) -> None:
    found = survey(config)
    assert 0 <= likeness(found, plan) < 0.2
    assert told_apart(found, plan, "ours").isprintable()


def test_it_ends(plan: list[PlannedLayer]) -> None:
    config = model([layer("Conv2D")] * 9)
    for _ in range(20):
        config = model([config] * 9)
    assert len(survey(config).convolutions) < MAX_LAYERS
