"""Keras files that are no network of ours, or that nobody should trust: one clear line each."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from xception.weights.dialects import keras_match
from xception.weights.dialects.keras_graph import MAX_LAYERS, MAX_NESTING
from xception.weights.dialects.keras_import import recognise
from xception.weights.files.contents import FileContents

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Config = dict[str, Any]
Change = Callable[[Config], None]


@pytest.fixture(scope="module")
def good(
    tiny_model: Callable[..., Any],
    keras: ModuleType,
    contents_of: Callable[[Path], FileContents],
    tmp_path_factory: pytest.TempPathFactory,
) -> FileContents:
    """A small network of ours with four classes, in Keras's words."""
    model = tiny_model(lambda: [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)])
    path = tmp_path_factory.mktemp("good") / "good.keras"
    model.save(path)
    contents = contents_of(path)
    assert recognise(contents).model.num_classes == 4
    return contents


def changed(contents: FileContents, change: Change) -> FileContents:
    config = copy.deepcopy(contents.config)
    assert config is not None
    change(config)
    return FileContents(kind=contents.kind, tensors=contents.tensors, config=config)


def layer(config: Config, name: str) -> Config:
    """The first layer of a class, or the only one of a name."""
    layers: list[Config] = config["config"]["layers"]
    return next(e for e in layers if name in (e["name"], e["class_name"]))


def set_in(name: str, **values: Any) -> Change:
    return lambda config: layer(config, name)["config"].update(values)


def use_twice(config: Config) -> None:
    found = layer(config, "SeparableConv2D")
    found["inbound_nodes"] *= 2


def cycle(config: Config) -> None:
    first, last = layer(config, "Conv2D"), config["config"]["layers"][-1]["name"]
    first["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = [last, 0, 0]


def missing(config: Config) -> None:
    first = layer(config, "Conv2D")
    first["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["nowhere", 0, 0]


def second_output(config: Config) -> None:
    first = layer(config, "Conv2D")
    first["inbound_nodes"][0]["args"][0]["config"]["keras_history"][2] = 1


def twins(config: Config) -> None:
    config["config"]["layers"].append(copy.deepcopy(layer(config, "Dense")))


def loose_end(config: Config) -> None:
    found = copy.deepcopy(layer(config, "ReLU"))
    found["name"] = found["config"]["name"] = "loose"
    config["config"]["layers"].append(found)


def second_input(config: Config) -> None:
    config["config"]["layers"].append({**copy.deepcopy(layer(config, "InputLayer")), "name": "b"})


def renamed(class_name: str, **more: Any) -> Change:
    return lambda config: layer(config, "SeparableConv2D").update(class_name=class_name, **more)


def training(config: Config) -> None:
    layer(config, "BatchNormalization")["inbound_nodes"][0]["kwargs"] = {"training": True}


def become(config: Config, other: Config) -> None:
    config.clear()
    config.update(other)


def very_deep(config: Config) -> None:
    inner = {**copy.deepcopy(config), "name": "inner", "inbound_nodes": []}
    for _ in range(MAX_NESTING + 1):
        inner = {
            "class_name": "Sequential",
            "name": "around",
            "config": {"name": "around", "layers": [inner]},
        }
    become(config, inner)


def very_many(config: Config) -> None:
    entry = {"class_name": "ReLU", "config": {}}
    layers = [{**entry, "name": f"r{i}"} for i in range(MAX_LAYERS + 1)]
    become(config, {"class_name": "Sequential", "config": {"name": "long", "layers": layers}})


def very_many_inside(config: Config) -> None:
    layers = [{"class_name": "ReLU", "name": f"r{i}", "config": {}} for i in range(MAX_LAYERS // 2)]
    models = [
        {"class_name": "Sequential", "name": f"m{i}", "config": {"layers": layers}}
        for i in range(3)
    ]
    become(config, {"class_name": "Sequential", "config": {"name": "long", "layers": models}})


DAMAGED: dict[str, tuple[Change, str]] = {
    "shared": (use_twice, r"its layer 'separable_conv2d.*' is used 2 times"),
    "not connected": (
        lambda config: layer(config, "Dense").update(inbound_nodes=[]),
        r"its layer 'dense.*' is not connected",
    ),
    "cycle": (cycle, r"its layer 'conv2d.*' waits for its own output"),
    "missing": (missing, r"reads 'nowhere', which the file does not have"),
    "second output": (second_output, r"reads output 1 of call 0 of 'input"),
    "twins": (twins, r"2 of its layers are called 'dense"),
    "loose end": (loose_end, r"its layer 'loose' leads nowhere"),
    "second input": (second_input, r"its layer 'b' is a second input"),
    "lambda": (
        renamed("Lambda", config={"function": ["4wEAAAAAAAAA", None, None]}),
        r"is a Lambda: Python code, which is never run; save the model without it, or with a Resc",
    ),
    "custom class": (
        renamed("SeparableConv2D", module="mine.layers", registered_name="mine>SeparableConv2D"),
        r"is a class of its author's \('mine>SeparableConv2D'\), whose code is not in the file",
    ),
    "custom class of the same name": (
        renamed("SeparableConv2D", module="builtins"),
        "is a class of its author's",
    ),
    "custom activation": (
        set_in(
            "SeparableConv2D",
            activation={"module": "mine", "class_name": "function", "config": "relu"},
        ),
        r"has an activation of its own \('function'\)|has an activation of its own \(function\)",
    ),
    "another class": (renamed("Conv2DTranspose"), "is a Conv2DTranspose, which no network here"),
    "another class with a vowel": (renamed("Identity"), "is an Identity, which no network here"),
    "a class of other networks": (
        renamed("DepthwiseConv2D"),
        r"'separable_conv2d.*' \(DepthwiseConv2D\), where xception_tiny has a SeparableConv2D",
    ),
    "training": (training, r"is called with training=True"),
    "no class": (lambda config: config["config"]["layers"][3].pop("class_name"), "without a class"),
    "no config": (lambda config: layer(config, "Dense").update(config=None), "no configuration"),
    "no name": (lambda config: layer(config, "Dense").update(name=""), "no usable name"),
    "long name": (lambda config: layer(config, "Dense").update(name="x" * 501), "no usable name"),
    "layers": (lambda config: config["config"].update(layers={"a": 1}), "has no list of layers"),
    "no layers": (lambda config: config["config"].update(layers=[]), "has no list of layers"),
    "nodes": (lambda config: layer(config, "Dense").update(inbound_nodes="a"), "are no list"),
    "node": (lambda config: layer(config, "Dense").update(inbound_nodes=[7]), "be understood"),
    "empty call": (
        lambda config: layer(config, "Dense").update(inbound_nodes=[{"args": []}]),
        "cannot be understood",
    ),
    "history": (
        lambda config: layer(config, "Dense")["inbound_nodes"][0]["args"][0].update(config=3),
        "cannot be understood",
    ),
    "many inputs": (
        lambda config: layer(config, "Dense")["inbound_nodes"][0].update(
            args=layer(config, "Dense")["inbound_nodes"][0]["args"] * 99
        ),
        "cannot be understood",
    ),
    "outputs": (lambda config: config["config"].update(output_layers=[]), "unknown outputs"),
    "output": (
        lambda config: config["config"].update(output_layers=["nothing", 0, 0]),
        "has no layer 'nothing', but refers to one",
    ),
    "subclass": (
        lambda config: config.update(class_name="MyModel"),
        "a Keras model of the class .MyModel., whose layers its author's code connects",
    ),
    "deep": (very_deep, f"more than {MAX_NESTING} deep in each other"),
    "long": (very_many, "has more than 4,000 layers"),
    "long inside": (very_many_inside, "has more than 4,000 layers"),
    "filters": (
        set_in("SeparableConv2D", filters=48),
        r"is not xception_tiny: its layer 'separable_conv2d.*' has filters=48, where "
        r"xception_tiny has 64",
    ),
    "stride": (set_in("MaxPooling2D", strides=[1, 1]), r"has strides=\[1, 1\], where .* \[2, 2\]"),
    "padding": (set_in("MaxPooling2D", padding="valid"), "has padding='valid', where .* 'same'"),
    "bias": (set_in("SeparableConv2D", use_bias=True), "has use_bias=True, where .* has False"),
    "multiplier": (set_in("SeparableConv2D", depth_multiplier=2), "has depth_multiplier=2"),
    "dilation": (set_in("SeparableConv2D", dilation_rate=[2, 2]), r"has dilation_rate=\[2, 2\]"),
    "channels first": (
        set_in("SeparableConv2D", data_format="channels_first"),
        "has data_format='channels_first'",
    ),
    "axis": (set_in("BatchNormalization", axis=1), "has axis=1, where"),
    "no shift": (set_in("BatchNormalization", center=False), "has center=False"),
    "inner activation": (
        set_in("SeparableConv2D", activation="relu"),
        r"comes its layer 'separable_conv2d.*' \(Activation\), where .* a BatchNormalization",
    ),
    "elu": (set_in("Activation", activation="elu"), "has activation='elu', where .* 'relu'"),
    "epsilon": (
        set_in("BatchNormalization", epsilon=1e-5),
        r"has epsilon=0.001, its layer 'batch_normalization.*' 1e-05; xception_tiny has one for",
    ),
    "momentum": (set_in("BatchNormalization", momentum=0.9), "has momentum=0.99, its layer"),
    "no epsilon": (set_in("BatchNormalization", epsilon=0), "has epsilon=0, with which it cannot"),
    "text epsilon": (set_in("BatchNormalization", epsilon="1"), "has epsilon='1', with which"),
    "units": (set_in("Dense", units="many"), "has units='many'"),
    "huge units": (set_in("Dense", units=2**70), "cannot be taken over|does not fit its network"),
    "other units": (set_in("Dense", units=5), "the kernel of its layer 'dense.*' is 256x4, 256x5"),
    "object": (set_in("SeparableConv2D", filters={"a": [[[]]]}), "has filters=an object"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_changed_configuration(good: FileContents, name: str) -> None:
    change, message = DAMAGED[name]
    with pytest.raises(ValueError, match=message) as caught:
        recognise(changed(good, change))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_zeros_at_each_side_are_told_in_numbers() -> None:
    assert keras_match._shown(((3, 3), (0, 1))) == "[[3, 3], [0, 1]]"
    assert keras_match._shown(((3, 3), {"a": 1})) == "[[3, 3], an object]"


ODD_VALUES: list[Any] = [
    None, True, 0, -1, 2**70, 1e308, math.inf, math.nan, "", "same", "\x1b[0m\n", "x" * 600, [], {},
    [[]], [None], [0, 0], ["conv2d", 0, 0], "Dense", "Functional", "TFOpLambda", "Rescaling",
    {"class_name": "__keras_tensor__", "config": {"keras_history": ["conv2d", 0, 0]}},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def test_random_changes_give_a_classifier_or_one_line(good: FileContents) -> None:
    chance = random.Random(0)
    everywhere = places(good.config)
    refused = 0
    for _ in range(300):
        config = copy.deepcopy(good.config)
        *way, last = chance.choice(everywhere)
        inside: Any = config
        for key in way:
            inside = inside[key]
        if chance.random() < 0.2:
            del inside[last]
        else:
            inside[last] = copy.deepcopy(chance.choice(ODD_VALUES))
        try:
            recognise(FileContents(kind=good.kind, tensors=good.tensors, config=config))
        except ValueError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 500
    assert 50 < refused < 300  # what only concerns training may be anything


def without(contents: FileContents, part: str) -> FileContents:
    tensors = {name: t for name, t in contents.tensors.items() if part not in name}
    return FileContents(kind=contents.kind, tensors=tensors, config=contents.config)


def put(contents: FileContents, name: str, tensor: torch.Tensor) -> FileContents:
    tensors = {**contents.tensors, name: tensor}
    return FileContents(kind=contents.kind, tensors=tensors, config=contents.config)


KERNEL = "layers/separable_conv2d_1/vars/1"
VARIANCE = "layers/batch_normalization/vars/3"


def test_weights_that_do_not_fit(good: FileContents) -> None:
    for contents, message in (
        (without(good, "layers/dense/"), r"'dense.*' has 0 weights, 2 are needed \(kernel, bias\)"),
        (without(good, KERNEL), "has 1 weights, 2 are needed"),
        (without(good, "layers/conv2d/"), "has no kernel of a convolution"),
        (
            put(good, KERNEL, good.tensors[KERNEL].permute(1, 0, 3, 2)[..., :9]),
            "the pointwise_kernel of its layer 'separable_conv2d.*' is 1x1x64x9, 1x1x64x64 is",
        ),
        (put(good, KERNEL, torch.zeros(())), "is a single number, 1x1x64x64 is needed"),
        (
            put(good, KERNEL, good.tensors[KERNEL] * math.nan),
            "holds NaN or infinite weights in the",
        ),
        (put(good, KERNEL, good.tensors[KERNEL].int()), "pointwise_kernel of .* as int32; save"),
        (
            put(good, KERNEL, good.tensors[KERNEL].float()),
            "mixes precisions: .* float32, .* float64",
        ),
        (put(good, VARIANCE, -good.tensors[VARIANCE]), "holds variances below zero in its layer"),
        (put(good, "layers/more/vars/0", torch.zeros(3)), "belong to no layer .*: layers/more"),
        (put(good, "layers/dense/vars/2", torch.zeros(3)), "has 3 weights, 2 are needed"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            recognise(contents)
        assert "\n" not in str(caught.value)


def test_state_of_training_is_left_out(good: FileContents) -> None:
    names = ("layers/dropout/seed_generator/vars/0", "compile_metrics/mean/vars/0")
    contents = put(put(good, names[0], torch.zeros(2)), names[1], torch.zeros(()))
    assert [name for name, _ in recognise(contents).report.left_out] == list(names)


def test_another_kind_of_file() -> None:
    with pytest.raises(ValueError, match="is a safetensors file, not one of Keras"):
        recognise(FileContents(kind="safetensors", tensors={}))


OTHERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "MobileNet": (
        lambda k: k.applications.MobileNet(weights=None, input_shape=(96, 96, 3)),
        r"is no Xception that xception knows: its model 'mobilenet.*' has 15 Conv2D and 13 "
        r"DepthwiseConv2D layers, where keras.applications.Xception has 34 SeparableConv2D and 6",
    ),
    "VGG": (
        lambda k: k.Sequential([k.Input((96, 96, 3)), k.layers.Conv2D(64, 3, activation="relu")]),
        "its model 'sequential.*' has 1 Conv2D layer, where",
    ),
    "no convolution": (
        lambda k: k.Sequential([k.Input((96, 96, 3)), k.layers.Flatten(), k.layers.Dense(3)]),
        "its model 'sequential.*' has no convolution, where",
    ),
}


@pytest.mark.parametrize("form", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks(
    keras: ModuleType,
    contents_of: Callable[[Path], FileContents],
    tmp_path: Path,
    name: str,
    form: str,
) -> None:
    make, message = OTHERS[name]
    model, path = make(keras), tmp_path / f"other{form}"
    if form == ".weights.h5":
        model.save_weights(path)
        message = "is not xception|cannot be told|models with separable convolutions"
    else:
        model.save(path)
    with pytest.raises(ValueError, match=message):
        recognise(contents_of(path))
