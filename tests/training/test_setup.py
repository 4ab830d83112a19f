"""Starting weights: what comes along, what starts fresh, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xception.errors import DataError, RecipeError, TrainingError, UsageError
from xception.training import Recipe, TrainResult, train
from xception.training.optim import scale_of_batch
from xception.training.setup import adapted, open_inputs, preprocessing_for, with_whole_paths
from xception.weights import load


@pytest.fixture
def first(recipe: Recipe) -> TrainResult:
    """A short run with settings that are not the defaults."""
    return train(
        recipe.replaced(
            name="first",
            epochs=1,
            warmup=0.0,
            intermediate_activation="relu",
            padding="torch",
            bn_eps=1e-5,
        )
    )


def tuned(recipe: Recipe, first: TrainResult, **changes: object) -> Recipe:
    settings = {"freeze_epochs": 1, "size": None, **changes}
    return recipe.replaced(
        name="tuned", epochs=1, warmup=0.0, weights=str(first.model_path), **settings
    )


def test_kept_statistics_stay_while_weights_move(recipe: Recipe, first: TrainResult) -> None:
    settings = {"freeze_epochs": 0, "freeze_norm": True}
    after = load_file(train(tuned(recipe, first, **settings)).model_path)
    before = load_file(first.model_path)
    statistics = [name for name in before if "running_" in name]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)
    assert not torch.equal(before["stem.conv1.weight"], after["stem.conv1.weight"])


def test_frozen_fine_tuning_moves_the_last_layer_alone(recipe: Recipe, first: TrainResult) -> None:
    result = train(tuned(recipe, first))
    before, after = load_file(first.model_path), load_file(result.model_path)
    for name, value in before.items():
        if not name.startswith("head.fc"):
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before["head.fc.weight"], after["head.fc.weight"])


def test_settings_and_preprocessing_of_the_source_come_along(
    recipe: Recipe, first: TrainResult
) -> None:
    model = load(train(tuned(recipe, first)).model_path)
    arguments = model.architecture["args"]
    assert arguments["intermediate_activation"] == "relu"
    assert arguments["padding"] == "torch"
    assert arguments["bn_eps"] == 1e-5
    assert model.preprocessing.size == (16, 16)


def test_a_contradicting_setting_is_refused(recipe: Recipe, first: TrainResult) -> None:
    with pytest.raises(UsageError, match="padding"):
        train(tuned(recipe, first, padding="keras"))
    with pytest.raises(UsageError, match="xception_tiny"):
        train(tuned(recipe, first, model="xception_small"))


def test_other_classes_get_a_fresh_last_layer(
    recipe: Recipe, first: TrainResult, tmp_path: Path
) -> None:
    """As many classes, other names: the old rows mean nothing."""
    data = tmp_path / "renamed"
    shutil.copytree(recipe.data, data)
    for split in ("train", "test"):
        (data / split / "red").rename(data / split / "crimson")
    settled = tuned(recipe, first, data=str(data), lr=1e-30, averaging=0.0)
    before, after = load_file(first.model_path), load_file(train(settled).model_path)
    assert before["head.fc.weight"].shape == after["head.fc.weight"].shape
    assert not torch.allclose(before["head.fc.weight"], after["head.fc.weight"], atol=1e-3)


def test_a_resumed_fine_tuning_needs_no_source(recipe: Recipe, first: TrainResult) -> None:

    result = train(tuned(recipe, first))
    first.model_path.rename(first.model_path.with_suffix(".gone"))
    assert not train(resume=result.folder).interrupted


def test_digest_follows_names_and_labels(recipe: Recipe, tmp_path: Path) -> None:
    data = tmp_path / "own"
    shutil.copytree(recipe.data, data)
    own = recipe.replaced(data=str(data))
    preprocessing = preprocessing_for(own, None)
    before = open_inputs(own, preprocessing).digest()
    assert open_inputs(own, preprocessing).digest() == before
    (data / "train" / "red" / "003.png").rename(data / "train" / "blue" / "903.png")
    assert open_inputs(own, preprocessing).digest() != before


def test_paths_become_whole_and_names_stay(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(recipe.data).parent)
    assert with_whole_paths(recipe.replaced(data=Path(recipe.data).name)).data == recipe.data
    assert with_whole_paths(recipe.replaced(data="fashion-mnist-5k")).data == "fashion-mnist-5k"


def test_a_class_name_that_no_model_file_holds_is_refused_at_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.csv"
    rows = [
        f"{path},{'x' * 2000 if path.parent.name == 'red' else path.parent.name}"
        for path in sorted(Path(recipe.data).rglob("*.png"))
    ]
    table.write_text("path,label\n" + "\n".join(rows))
    with pytest.raises(DataError, match="class name"):
        train(recipe.replaced(data=str(table)))
    assert not Path(recipe.out).exists()


def test_few_pictures_get_smaller_steps_and_it_is_said() -> None:
    said: list[str] = []
    few = adapted(Recipe(batch_size=128, lr=0.32), 162, said.append)
    assert (few.batch_size, few.lr * scale_of_batch(few)) == (8, pytest.approx(0.02))
    assert "batch size 8 instead of 128" in said[0]
    by_root = adapted(Recipe(optimizer="adamw", batch_size=32, lr=0.4), 300, said.append)
    rate = by_root.lr * scale_of_batch(by_root)
    assert (by_root.batch_size, rate) == (16, pytest.approx(0.4 * 0.5**0.5))
    assert adapted(Recipe(batch_size=128), 2048, said.append) == Recipe(batch_size=128)
    assert adapted(Recipe(batch_size=128, adapt=False), 162, said.append).batch_size == 128
    assert len(said) == 2


def test_few_steps_get_statistics_that_follow() -> None:
    said: list[str] = []
    recipe = Recipe(model="xception", epochs=6, batch_size=32)
    assert adapted(recipe, 2000, said.append).bn_momentum == 0.1
    assert "bn_momentum 0.1 instead" in said[0]
    for kept in (
        recipe.replaced(adapt=False),
        recipe.replaced(bn_momentum=0.02),
        recipe.replaced(weights="model.safetensors"),
        recipe.replaced(model="xception_tiny"),
        recipe.replaced(epochs=100),
    ):
        assert adapted(kept, 2000, said.append) == kept


def test_the_network_is_that_of_the_weights_unless_named(
    recipe: Recipe, first: TrainResult
) -> None:
    result = train(tuned(recipe, first, model=None))
    assert load(result.model_path).architecture["name"] == "xception_tiny"


def test_a_run_that_wrote_no_checkpoint_frees_its_name(recipe: Recipe) -> None:
    with pytest.raises(TrainingError, match="loss became"):
        train(recipe.replaced(lr=1e30, warmup=0.0))
    assert not (Path(recipe.out) / "run").exists()
    assert train(recipe).evaluation is not None


def test_layers_of_the_head_stay_in_fine_tuning(recipe: Recipe, tmp_path: Path) -> None:
    """They come along and are trained with the last layer, while nothing below the head moves."""
    layers = ("batchnorm 0.001 0.5", "linear 8", "gelu")
    source = train(recipe.replaced(name="first", epochs=1, pooling="max", head_layers=layers))
    data = tmp_path / "fewer"
    shutil.copytree(recipe.data, data)
    for split in ("train", "test"):
        shutil.rmtree(data / split / "red")
    model = load(train(tuned(recipe, source, data=str(data))).model_path)
    assert model.architecture["args"]["head_layers"] == list(layers)
    assert model.class_names == ["blue", "green"] and model.num_classes == 2
    before = load_file(source.model_path)
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, before[name]), name
        elif name.startswith("head.fc_layers."):
            assert value.shape == before[name].shape and not torch.equal(value, before[name]), name


def test_a_layer_of_the_head_that_there_is_not(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="recipe: head_layers: 'rely' is not a layer; a layer is"):
        train(recipe.replaced(head_layers=("rely",)))
    with pytest.raises(RecipeError, match="fc_units and head_layers cannot be given together"):
        train(recipe.replaced(head_layers=("relu",), fc_units=(8,)))
    with pytest.raises(RecipeError, match="mini_xception has no argument 'pooling'"):
        train(recipe.replaced(model="mini_xception", pooling="max"))


def test_a_network_for_grey_pictures_is_trained_on_grey_ones(recipe: Recipe) -> None:
    model = load(train(recipe.replaced(model="mini_xception", epochs=1)).model_path)
    assert model.in_channels == model.preprocessing.channels == 1
    assert model.preprocessing.size == (16, 16) and model.preprocessing.resize == "squash"
