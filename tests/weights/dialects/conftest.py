"""Networks of Keras and of timm with numbers that matter, and Keras's files as contents."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xception.models import Classifier
from xception.weights.dialects import torch_legacy
from xception.weights.files.contents import FileContents
from xception.weights.imported import Imported

os.environ.setdefault("KERAS_BACKEND", "torch")  # read once, when keras is first imported


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def keras() -> Iterator[ModuleType]:
    module = pytest.importorskip("keras")
    if module.backend.backend() != "torch":
        pytest.skip("keras is imported already, on another backend than torch")
    from keras.src.backend.common import dtypes

    # As JAX does by default, Keras computes batch normalization and sums of float64 in float32.
    before = dtypes.BIT64_TO_BIT32_DTYPE["float64"]
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    yield module
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = before


@pytest.fixture(scope="session")
def randomize() -> Callable[[Any], Any]:
    """randomize(model) -> it, with numbers under which no layer is the identity.

    Kernels keep the size of what passes, else nothing but biases would reach the logits.
    """

    def make(model: Any, seed: int = 0) -> Any:
        rng = np.random.default_rng(seed)
        ranges = {"gamma": (0.5, 1.5), "beta": (-0.2, 0.2), "bias": (-0.2, 0.2)}
        ranges |= {"moving_mean": (-0.2, 0.2), "moving_variance": (0.5, 1.5)}
        for variable in model.weights:
            name = variable.name.rpartition("/")[2]
            if name in ranges:
                variable.assign(rng.uniform(*ranges[name], variable.shape))
            elif name.endswith("kernel"):
                *places, inputs, _ = variable.shape
                fan_in = np.prod(places) * (1 if name.startswith("depthwise") else inputs)
                gain = 1.0 if name.startswith("depthwise") else 2.0
                variable.assign(rng.normal(0, (gain / fan_in) ** 0.5, variable.shape))
        return model

    return make


@pytest.fixture(scope="session")
def tiny_body(keras: ModuleType) -> Callable[[Any], Any]:
    """tiny_body(x) -> the feature map of our xception_tiny, in Keras's layers."""

    def separable(x: Any, channels: int) -> Any:
        layers = keras.layers
        x = layers.SeparableConv2D(channels, 3, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    def make(x: Any) -> Any:
        layers = keras.layers
        x = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        blocks = [(64, 64), (128, 128), (128,) * 3, (128,) * 3, (256, 256)]
        for index, channels in enumerate(blocks):
            y = x
            for place, count in enumerate(channels):
                if index or place:
                    y = layers.Activation("relu")(y)
                y = separable(y, count)
            if len(channels) == 2:
                y = layers.MaxPooling2D(3, strides=2, padding="same")(y)
                x = layers.Conv2D(channels[-1], 1, strides=2, padding="same", use_bias=False)(x)
                x = layers.BatchNormalization()(x)
            x = layers.Add()([y, x])
        return layers.Activation("relu")(x)

    return make


@pytest.fixture(scope="session")
def tiny_model(
    keras: ModuleType, tiny_body: Callable[[Any], Any], randomize: Callable[[Any], Any]
) -> Callable[..., Any]:
    """tiny_model(head, before, size) -> a model in float64: layers around our xception_tiny.

    head, before: make the layers after the feature map, and before the first convolution
    """

    def make(
        head: Callable[[], list[Any]] = list,
        before: Callable[[], list[Any]] = list,
        size: tuple[int | None, int | None, int] = (24, 20, 3),
    ) -> Any:
        keras.config.set_dtype_policy("float64")
        try:
            x = inputs = keras.Input(size, dtype="float64")
            for layer in before():
                x = layer(x)
            x = tiny_body(x)
            for layer in head():
                x = layer(x)
            return randomize(keras.Model(inputs, x))
        finally:
            keras.config.set_dtype_policy("float32")

    return make


@pytest.fixture(scope="session")
def keras_rows() -> Callable[[Any, Tensor], Tensor]:
    """keras_rows(model, x) -> what a Keras model gives for pictures (N, C, H, W)."""

    def run(model: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(x.permute(0, 2, 3, 1).contiguous(), training=False)
        return found.detach()

    return run


@pytest.fixture(scope="session")
def contents_of() -> Callable[[Path], FileContents]:
    """contents_of(path) -> what a reader of Keras files should find there, by h5py alone."""
    h5py = pytest.importorskip("h5py")

    def tensor(data: Any) -> Tensor:
        return torch.from_numpy(np.array(data[()]))

    def all_tensors(group: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
                found[name] = tensor(item)

        group.visititems(note)
        return found

    def listed(group: Any, name: str) -> list[str]:
        chunks = [name, *(f"{name}{i}" for i in range(100))]
        values = [v for chunk in chunks if chunk in group.attrs for v in group.attrs[chunk]]
        return [v.decode() if isinstance(v, bytes) else v for v in values]

    def read(path: Path) -> FileContents:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                version = json.loads(archive.read("metadata.json"))["keras_version"]
                with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
                    tensors = all_tensors(file)
            return FileContents(
                kind="keras archive", tensors=tensors, config=config, version=version
            )
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            if "layer_names" not in group.attrs and "layer_names0" not in group.attrs:
                return FileContents(kind="keras weights", tensors=all_tensors(file))
            tensors = {
                f"{layer}/{weight}": tensor(group[layer][weight])
                for layer in listed(group, "layer_names")
                for weight in listed(group[layer], "weight_names")
            }
            config = json.loads(file.attrs.get("model_config", "null"))
        return FileContents(kind="keras h5", tensors=tensors, config=config)

    return read


@pytest.fixture(scope="session")
def as_keras_2() -> Callable[..., dict[str, Any]]:
    """as_keras_2(config, functional) -> a configuration of Keras 3 in the form of Keras 2.

    functional: what functional models are called: "Model" up to TensorFlow 2.2, then "Functional"
    """
    functions = {"TrueDivide": "math.truediv", "Subtract": "math.subtract"}

    def leaf(argument: Any, options: dict[str, Any]) -> list[Any]:
        return [*argument["config"]["keras_history"], options]

    def call(node: dict[str, Any]) -> list[Any]:
        first, *others = node["args"]
        if others:  # an operation of TensorFlow
            return leaf(first, {"y": others[0], "name": None})
        return [leaf(a, node["kwargs"]) for a in (first if isinstance(first, list) else [first])]

    def endpoints(value: list[Any]) -> list[Any]:
        return value if isinstance(value[0], list) else [value]

    def convert(config: dict[str, Any], functional: str = "Model") -> dict[str, Any]:
        kind, inner = config["class_name"], dict(config["config"])
        inner.pop("dtype", None)
        if "layers" in inner:
            inner["layers"] = [convert(layer, functional) for layer in inner["layers"]]
        for key in ("input_layers", "output_layers"):
            if key in inner:
                inner[key] = endpoints(inner[key])
        if kind in functions:
            inner, kind = {**inner, "function": functions[kind]}, "TFOpLambda"
        if "batch_shape" in inner:
            inner["batch_input_shape"] = inner.pop("batch_shape")
        made = {"class_name": functional if kind == "Functional" else kind, "config": inner}
        if "inbound_nodes" in config:
            made |= {"name": config["name"], "inbound_nodes": []}
            made["inbound_nodes"] = [call(node) for node in config["inbound_nodes"]]
        return made

    return convert


@pytest.fixture(scope="session")
def randomize_torch() -> Callable[[nn.Module, str], None]:
    """randomize_torch(model, nonlinearity): no layer is the identity, and logits see the picture.

    nonlinearity: what convolutions and linear layers keep the size of, in the words of torch's
    kaiming_normal_
    """

    def fill(model: nn.Module, nonlinearity: Any) -> None:
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
                nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
                module.num_batches_tracked.fill_(17)  # type: ignore[union-attr]
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity=nonlinearity)

    return fill


@pytest.fixture(scope="session")
def assert_same_stages() -> Callable[..., Tensor]:
    """assert_same_stages(ours, other, names, x, tolerance) -> the logits of `ours`.

    names: of a module of `other` by our stage; both, and the logits, must give the same
    tolerance: of a difference, relative to the largest value of each
    """

    def outputs(model: nn.Module, stages: dict[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
        """What comes out of each stage, and the logits."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            return lambda _module, _inputs, output: found.__setitem__(name, output.detach().clone())

        hooks = [module.register_forward_hook(keep(name)) for name, module in stages.items()]
        with torch.no_grad():
            found["logits"] = model(x)
        for hook in hooks:
            hook.remove()
        return found

    def check(
        ours: Classifier, other: nn.Module, names: dict[str, str], x: Tensor, tolerance: float
    ) -> Tensor:
        stages = dict(ours.stages())
        found = outputs(ours, {name: stages[name] for name in names}, x)
        expected = outputs(other, {name: other.get_submodule(name) for name in names.values()}, x)
        for name, their_name in [*names.items(), ("logits", "logits")]:
            a, b = found[name], expected[their_name]
            assert a.dtype == b.dtype and a.shape == b.shape
            assert (a - b).abs().max() <= tolerance * b.abs().max(), name
        return found["logits"]

    return check


@pytest.fixture(scope="module")
def legacy_network(randomize_torch: Callable[[nn.Module, str], None]) -> nn.Module:
    """timm's legacy_xception with five classes. A test may change its dtype."""
    timm = pytest.importorskip("timm")
    network: nn.Module = timm.create_model("legacy_xception", num_classes=5)
    randomize_torch(network, "relu")
    return network.eval()


@pytest.fixture
def legacy_state(legacy_network: nn.Module) -> dict[str, Tensor]:
    """Its state dict in float32."""
    return dict(legacy_network.float().state_dict())


@pytest.fixture(scope="session")
def import_legacy() -> Callable[..., Imported]:
    """import_legacy(tensors, **fields of FileContents) -> the paper's network out of them."""

    def read(tensors: dict[str, Tensor], **fields: Any) -> Imported:
        contents = FileContents(**{"kind": "torch state dict", "tensors": tensors, **fields})
        found = torch_legacy.recognise(contents)
        assert found is not None
        return found

    return read
