from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from xception.errors import RecipeError
from xception.models import list_models, model_entry
from xception.training import PRESETS, Recipe


def test_yaml_and_back_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = Recipe(data="bilder/äöü", segments=4, fc_units=(8, 8), crop_scale=(0.2, 0.9))
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_valid_and_name_registered_models(name: str) -> None:
    assert Recipe.preset(name).model in (None, *list_models())


def test_model_arguments_exist_in_the_default_network() -> None:
    recipe = Recipe(
        segments=2, intermediate_activation="elu", residual=False, pooling="max", fc_units=(4,),
        head_layers=("relu",), dropout=0.1, output_stride=8, padding="torch", bn_eps=1e-5,
        bn_momentum=0.1,
    )  # fmt: skip
    known = model_entry("xception").argument_names()
    assert set(recipe.model_arguments()) <= set(known)
    assert len(recipe.model_arguments()) == 11


def test_layers_of_the_head_survive_yaml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("pooling: max\nhead_layers: [linear 64 nobias, batchnorm 1e-3 0.1, relu]\n")
    recipe = Recipe.load(path)
    assert recipe.head_layers == ("linear 64 nobias", "batchnorm 1e-3 0.1", "relu")
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe
    assert recipe.model_arguments() == {"pooling": "max", "head_layers": recipe.head_layers}


def test_unknown_field_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("epochz: 3\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml.*'epochz'.*did you mean epochs\?"):
        Recipe.load(path)
    with pytest.raises(RecipeError, match="did you mean small"):
        Recipe.preset("smal")


def test_preset_in_a_file_is_the_base(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("preset: fine-tune\nepochs: 3\nlr: 1e-4\n")
    recipe = Recipe.load(path)
    assert (recipe.optimizer, recipe.epochs, recipe.lr) == ("adamw", 3, 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 0", "epochs must be above 0"),
        ("epochs: 2.5", "epochs must be an integer"),
        ("lr: .nan", "lr must be a number"),
        ("lr: fast", "lr must be a number"),
        ("flip: 3", "flip must be true or false"),
        ("optimizer: adam", "optimizer must be one of sgd, adamw"),
        ("pooling: min", "pooling must be one of avg, max or null"),
        ("head_layers: relu", "head_layers must be a list of text or null"),
        ("head_layers: [1]", "head_layers must be a list of text or null"),
        ("segments: none", "segments must be an integer or one of channels or null"),
        ("crop_scale: [0.5]", "crop_scale must be a list of a number"),
        ("warmup: 1", "warmup must be at least 0 and below 1"),
        ("no_decay: [norm, all]", "no_decay must be among"),
        ("name: ../elsewhere", "name must be a folder name"),
        ("bn_eps: 0", "bn_eps must be above 0"),
        ("color_jitter: 1.5", "color_jitter must be within 0..1"),
        ("seed: 99999999999999999999999", "seed must be within"),
        ("data: &a [x, x]\nmodel: [*a, *a]", "must be text"),
        ("- 1", "a recipe is a mapping"),
        ("a: [", "not valid YAML"),
        ("data: ''", "data must be"),
    ],
)
def test_wrong_values_name_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert message in str(caught.value)
    assert "recipe.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hostile_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(RecipeError, match="not valid YAML"):
        Recipe.load(path)
    path.write_text("[" * 5000)
    with pytest.raises(RecipeError):
        Recipe.load(path)


def test_a_value_of_a_million_aliases_gives_a_short_message(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    path = tmp_path / "recipe.yaml"
    text = "model:\n  " + "\n  ".join(lines)
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert len(str(caught.value)) < 1000


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read recipe .*gone\.yaml"):
        Recipe.load(tmp_path / "gone.yaml")


def test_replaced_checks_names_and_values() -> None:
    assert Recipe().replaced(epochs=30).epochs == 30
    with pytest.raises(RecipeError, match="did you mean epochs"):
        Recipe().replaced(epoch=30)
    with pytest.raises(RecipeError, match="batch_size must be at least 2"):
        Recipe().replaced(batch_size=0)


def test_every_field_has_a_comment_that_says_what_it_is() -> None:
    import inspect

    source = inspect.getsource(Recipe)
    for field in dataclasses.fields(Recipe):
        line = next(x for x in source.splitlines() if x.startswith(f"    {field.name}:"))
        assert "  # " in line, field.name
