"""The forms in which Keras 2 and 3 write down a model: each gives the same classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from xception.models import create_model
from xception.weights.dialects.keras_graph import read_graph
from xception.weights.dialects.keras_import import recognise
from xception.weights.dialects.keras_plan import in_keras_order, plan_of
from xception.weights.files.contents import FileContents

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (24, 20, 3)


def functional(keras: ModuleType, body: Any) -> Any:
    k = keras.layers
    x = inputs = keras.Input(SIZE)
    x = keras.Sequential([k.RandomFlip(), k.RandomContrast(0.1)])(x)
    x = keras.applications.xception.preprocess_input(x)
    x = body(x, training=False)
    x = k.GlobalAveragePooling2D()(x)
    top = keras.Sequential([k.Dense(7, "relu"), k.Dropout(0.2), k.Dense(4)])
    return keras.Model(inputs, top(x))


def sequential(keras: ModuleType, body: Any) -> Any:
    k = keras.layers
    layers = [k.RandomFlip(), k.Rescaling(1 / 127.5, -1.0), body, k.GlobalAveragePooling2D()]
    return keras.Sequential(
        [k.Input(SIZE), *layers, k.Dense(7, "relu"), k.Dropout(0.2), k.Dense(4)]
    )


def without_input(keras: ModuleType, body: Any) -> Any:
    model = keras.Sequential(sequential(keras, body).layers)
    model.build((None, *SIZE))
    return model


def deeply_nested(keras: ModuleType, body: Any) -> Any:
    k = keras.layers
    inner = keras.Sequential([k.Input(SIZE), k.Rescaling(1 / 127.5, -1.0), body])
    pooled = keras.Sequential([inner, k.GlobalAveragePooling2D()])
    inputs = keras.Input(SIZE)
    x = k.Dropout(0.2)(k.Dense(7, "relu")(pooled(inputs)))
    return keras.Model(inputs, k.Dense(4)(x))


FORMS = {
    "functional": functional,
    "sequential": sequential,
    "without input": without_input,
    "deeply nested": deeply_nested,
}


@pytest.mark.parametrize("older", [False, True], ids=["keras 3", "keras 2"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", FORMS)
def test_models_in_models(
    keras: ModuleType,
    tiny_body: Callable[[Any], Any],
    randomize: Callable[[Any], Any],
    keras_rows: Callable[[Any, Tensor], Tensor],
    contents_of: Callable[[Path], FileContents],
    as_keras_2: Callable[..., dict[str, Any]],
    tmp_path: Path,
    name: str,
    suffix: str,
    older: bool,
) -> None:
    inputs = keras.Input(SIZE)
    model = randomize(FORMS[name](keras, keras.Model(inputs, tiny_body(inputs), name="body")))
    model.save(tmp_path / f"model{suffix}")
    contents = contents_of(tmp_path / f"model{suffix}")
    assert contents.config is not None
    if older:
        config = as_keras_2(contents.config, "Model" if suffix == ".h5" else "Functional")
        contents = FileContents(kind=contents.kind, tensors=contents.tensors, config=config)
    imported = recognise(contents)
    arguments = imported.model.architecture["args"]
    assert imported.model.architecture["name"] == "xception_tiny"
    assert arguments["fc_units"] == [7] and arguments["dropout"] == 0.2
    assert imported.model.preprocessing.size == SIZE[:2]
    assert imported.model.preprocessing.mean == (0.5, 0.5, 0.5)
    values = torch.randint(0, 256, (2, 3, *SIZE[:2])).float()
    with torch.no_grad():
        found = imported.model(values / 127.5 - 1)
    torch.testing.assert_close(found, keras_rows(model, values), rtol=0, atol=1e-4)


def test_a_sequential_model_of_keras_before_2_2_3(
    keras: ModuleType,
    tiny_body: Callable[[Any], Any],
    contents_of: Callable[[Path], FileContents],
    as_keras_2: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Its configuration is a list of layers, the first of which has the shape of the input."""
    inputs = keras.Input(SIZE)
    model = sequential(keras, keras.Model(inputs, tiny_body(inputs), name="body"))
    model.save(tmp_path / "model.h5")
    contents = contents_of(tmp_path / "model.h5")
    assert contents.config is not None
    _, *layers = as_keras_2(contents.config)["config"]["layers"]
    layers[0]["config"]["batch_input_shape"] = [None, *SIZE]
    old = FileContents(
        kind="keras h5",
        tensors=contents.tensors,
        config={"class_name": "Sequential", "config": layers},
    )
    found, expected = recognise(old).model, recognise(contents).model
    assert found.architecture == expected.architecture
    assert found.preprocessing == expected.preprocessing
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


def test_the_names_of_nested_layers(
    keras: ModuleType,
    tiny_body: Callable[[Any], Any],
    contents_of: Callable[[Path], FileContents],
    tmp_path: Path,
) -> None:
    inputs = keras.Input(SIZE)
    body = keras.Model(inputs, tiny_body(inputs), name="body")
    deeply_nested(keras, body).save(tmp_path / "model.keras")
    graph = read_graph(contents_of(tmp_path / "model.keras"))
    first = next(node for node in graph.nodes if node.kind == "Conv2D")
    parts = first.name.split("/")
    assert [part.rstrip("_0123456789") for part in parts] == ["sequential"] * 2 + ["body", "conv2d"]
    assert first.tensors == ("layers/sequential/layers/sequential/layers/functional/layers/"
                             "conv2d/vars/0",)  # fmt: skip
    assert graph.input_shape == SIZE


def test_activations_by_themselves_and_within_a_layer_are_one(
    keras: ModuleType, contents_of: Callable[[Path], FileContents], tmp_path: Path
) -> None:
    k = keras.layers
    model = keras.Sequential(
        [k.Input((8,)), k.Dense(4, activation="relu"), k.Dense(4), k.ReLU(), k.Activation("linear")]
    )
    model.save(tmp_path / "model.keras")
    graph = read_graph(contents_of(tmp_path / "model.keras"))
    kinds = [node.kind for node in graph.nodes]
    assert kinds == ["InputLayer", *["Dense", "Activation"] * 2]
    assert graph.output == 4


@pytest.mark.parametrize("name", ["xception", "xception_small", "mini_xception"])
def test_the_plan_is_in_an_order_in_which_it_can_be_computed(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    plan = plan_of(model)  # type: ignore[arg-type]
    assert all(source < index for index, layer in enumerate(plan) for source in layer.inputs)
    weights = [name for layer in plan for name in layer.weights]
    body = [n for n in model.state_dict() if not n.startswith("head.") and "num_batch" not in n]
    assert sorted(weights) == sorted(body)


def test_keras_lists_the_first_residual_branch_fourth() -> None:
    """Its normalization is batch_normalization_4 in Keras's own file of the paper's network."""
    with torch.device("meta"):
        model = create_model("xception")
    ordered = in_keras_order(plan_of(model))  # type: ignore[arg-type]
    norms = [layer.path for layer in ordered if layer.kind == "BatchNormalization"]
    assert norms[4] == "entry_flow.0.skip.norm"
    convolutions = [layer.path for layer in ordered if layer.kind == "Conv2D"]
    assert convolutions[2] == "entry_flow.0.skip.conv"
