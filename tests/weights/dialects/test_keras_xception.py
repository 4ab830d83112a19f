"""keras.applications.Xception in every form of its files, against Keras itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xception.models import Classifier
from xception.weights.dialects.keras_import import recognise
from xception.weights.files.contents import FileContents

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZES = [(71, 71), (150, 150), (96, 137), (224, 224), (256, 256), (299, 299)]
CLASSES = 7

Contents = Callable[[Path], FileContents]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def theirs(keras: ModuleType, randomize: Callable[[Any], Any]) -> Any:
    """In float32, for pictures of any size, ending in logits."""
    model = keras.applications.Xception(
        weights=None,
        input_tensor=keras.Input((None, None, 3)),
        classes=CLASSES,
        classifier_activation=None,
    )
    return randomize(model)


@pytest.fixture(scope="module")
def archive(theirs: Any, folder: Path) -> Path:
    path = folder / "whole.keras"
    theirs.save(path)
    return path


@pytest.fixture(scope="module")
def ours(archive: Path, contents_of: Contents) -> Classifier:
    return recognise(contents_of(archive)).model


@pytest.fixture(scope="module")
def with_blocks(keras: ModuleType, theirs: Any) -> Callable[[Any], Any]:
    """The outputs of stem, the twelve modules and the tail, and the logits."""

    def make(model: Any) -> Any:
        adds = [layer for layer in model.layers if type(layer).__name__ == "Add"]
        ends = [model.get_layer("block1_conv2_act"), *adds, model.get_layer("block14_sepconv2_act")]
        return keras.Model(model.inputs, [*(layer.output for layer in ends), model.output])

    return make


@pytest.fixture(scope="module")
def in_both(keras: ModuleType, theirs: Any, with_blocks: Callable[[Any], Any]) -> dict[str, Any]:
    def wide(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    doubled = keras.models.clone_model(theirs, clone_function=wide)
    doubled.set_weights(theirs.get_weights())
    return {"float32": with_blocks(theirs), "float64": with_blocks(doubled)}


def picture(height: int, width: int) -> Tensor:
    """Coarse spots and noise, -1..1; float32 numbers, which is what Keras's inputs are cast to."""
    coarse = torch.rand(1, 3, 5, 5)
    spots = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return 1.6 * spots + 0.4 * torch.rand(1, 3, height, width) - 1


def block_outputs(model: Classifier, x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        found.append(output.clone())  # a layer after it may work in place

    hooks = [stage.register_forward_hook(note) for _, stage in model.stages()]
    with torch.no_grad():
        logits = model(x)
    for hook in hooks:
        hook.remove()
    return [*found, logits]


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Relative to the largest value."""
    assert a.shape == b.shape
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("dtype, bar", [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("size", SIZES)
def test_every_block_gives_what_keras_gives(
    ours: Classifier, in_both: dict[str, Any], size: tuple[int, int], dtype: str, bar: float
) -> None:
    torch.manual_seed(sum(size))
    model = ours.to(getattr(torch, dtype))
    x = picture(*size).to(getattr(torch, dtype))
    with torch.no_grad():
        expected = in_both[dtype](x.permute(0, 2, 3, 1).contiguous(), training=False)
    found = block_outputs(model, x)
    assert len(found) == len(expected) == 1 + 12 + 1 + 1
    for a, b in zip(found, expected):
        b = b.detach()
        assert largest_difference(a, b.permute(0, 3, 1, 2) if b.dim() == 4 else b) < bar


def test_logits_depend_on_the_picture(ours: Classifier) -> None:
    """Else the numbers above would say nothing."""
    with torch.no_grad():
        first, second = (ours.float()(picture(71, 71)) for _ in range(2))
    assert largest_difference(first, second) > 0.1


def test_report_and_architecture(archive: Path, contents_of: Contents) -> None:
    contents = contents_of(archive)
    imported = recognise(contents)
    report, model = imported.report, imported.model
    assert report.dialect.startswith("Keras archive (Keras 3.") and ": xception" in report.dialect
    assert sorted(there for there, _ in report.mapped) == sorted(contents.tensors)
    assert {here for _, here in report.mapped} == {
        name for name in model.state_dict() if not name.endswith("num_batches_tracked")
    }
    assert report.left_out == ()
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    arguments = model.architecture["args"]
    assert arguments["bn_eps"] == 1e-3 and arguments["bn_momentum"] == 0.01
    assert arguments["padding"] == "keras" and arguments["num_classes"] == CLASSES
    assert not model.training and model.preprocessing.size == (299, 299)
    assert any("any size: 299x299" in choice for choice in report.choices)
    assert any("x / 127.5 - 1" in choice for choice in report.choices)


def legacy_weights(model: Any, path: Path) -> None:
    """As Keras 2's save_weights wrote: layers by name, no configuration."""
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


def save_in(form: str, model: Any, folder: Path) -> Path:
    path = folder / f"form{form}"
    if form == "-weights.h5":
        legacy_weights(model, path)
    elif form.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


@pytest.fixture(scope="module")
def saved(folder: Path) -> Iterator[Callable[[str, Any], Path]]:
    paths: list[Path] = []

    def save(form: str, model: Any) -> Path:
        paths.append(save_in(form, model, folder))
        return paths[-1]

    yield save
    for path in paths:
        path.unlink(missing_ok=True)


def assert_same_weights(model: Classifier, reference: Classifier) -> None:
    """Below the head, bit for bit."""
    wanted = reference.state_dict()
    found = model.state_dict()
    body = [name for name in wanted if not name.startswith("head.")]
    assert body == [name for name in found if not name.startswith("head.")]
    assert all(torch.equal(found[name], wanted[name]) for name in body)


FORMS = [".keras", ".weights.h5", ".h5", "-weights.h5"]


@pytest.mark.parametrize("form", FORMS[1:])
def test_the_other_forms_of_the_same_model(
    theirs: Any,
    ours: Classifier,
    saved: Callable[[str, Any], Path],
    contents_of: Contents,
    form: str,
) -> None:
    imported = recognise(contents_of(saved(form, theirs)))
    assert imported.model.architecture == ours.architecture
    for name, tensor in ours.float().state_dict().items():
        assert torch.equal(imported.model.state_dict()[name], tensor), name
    alone = "weights" in form
    assert alone == any("weights alone" in choice for choice in imported.report.choices)


@pytest.fixture(scope="module")
def body(keras: ModuleType, theirs: Any) -> Any:
    """The same without its top."""
    model = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(150, 150, 3), name="xception"
    )
    model.set_weights(theirs.get_weights()[:-2])
    return model


@pytest.mark.parametrize("form", FORMS)
def test_without_top(
    body: Any,
    ours: Classifier,
    saved: Callable[[str, Any], Path],
    contents_of: Contents,
    form: str,
) -> None:
    imported = recognise(contents_of(saved(form, body)))
    model = imported.model
    assert model.num_classes == 0
    assert_same_weights(model, ours.float())
    size = (299, 299) if "weights" in form else (150, 150)
    assert model.preprocessing.size == size
    assert any("features come out" in choice for choice in imported.report.choices)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling_without_classes(
    keras: ModuleType,
    body: Any,
    saved: Callable[[str, Any], Path],
    contents_of: Contents,
    keras_rows: Callable[[Any, Tensor], Tensor],
    pooling: str,
) -> None:
    pooled = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(71, 80, 3), pooling=pooling
    )
    pooled.set_weights(body.get_weights())
    model = recognise(contents_of(saved(".keras", pooled))).model
    x = torch.rand(1, 3, 71, 80) * 2 - 1
    with torch.no_grad():
        assert largest_difference(model(x), keras_rows(pooled, x)) < 1e-4
    assert model.architecture["args"]["pooling"] == pooling and model.num_classes == 0


@pytest.mark.parametrize("frozen", ["all", "none", "some"])
@pytest.mark.parametrize("form", FORMS)
def test_inside_another_model_with_a_head(
    keras: ModuleType,
    body: Any,
    ours: Classifier,
    saved: Callable[[str, Any], Path],
    contents_of: Contents,
    form: str,
    frozen: str,
) -> None:
    """What is frozen changes the order of weights in a Keras 2 file."""
    if frozen != "all" and not form.endswith("h5"):
        pytest.skip("the order in Keras 3's files does not depend on it")
    body.trainable = True
    for layer in body.layers[: {"all": None, "none": 0, "some": 60}[frozen]]:
        layer.trainable = False
    x = inputs = keras.Input((150, 150, 3))
    x = keras.layers.GlobalAveragePooling2D()(body(x, training=False))
    x = keras.layers.Dense(12, activation="relu")(x)
    x = keras.layers.Dropout(0.25)(x)
    nested = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    imported = recognise(contents_of(saved(form, nested)))
    model = imported.model
    assert_same_weights(model, ours.float())
    arguments = model.architecture["args"]
    assert arguments["fc_units"] == [12] and arguments["num_classes"] == 3
    assert arguments["dropout"] == (0.0 if "weights" in form else 0.25)
    hidden = nested.layers[-3].kernel.value.detach()
    assert torch.equal(model.state_dict()["head.fc_layers.0.weight"], hidden.t())
    said = any("between its Dense layers: ReLU" in c for c in imported.report.choices)
    assert said == ("weights" in form)


def test_weights_by_the_names_of_keras_1(
    theirs: Any, ours: Classifier, saved: Callable[[str, Any], Path], contents_of: Contents
) -> None:
    """Keras's own published weights have such names; their order is that of the layers."""
    words = {"kernel": "W", "bias": "b", "moving_mean": "running_mean"}
    words["moving_variance"] = "running_std"
    tensors = {}
    for name, tensor in contents_of(saved("-weights.h5", theirs)).tensors.items():
        layer, *_, weight = name.split("/")
        tensors[f"{layer}/layer_1_{words.get(weight, weight)}:0"] = tensor
    imported = recognise(FileContents(kind="keras h5", tensors=tensors))
    for name, tensor in ours.float().state_dict().items():
        assert torch.equal(imported.model.state_dict()[name], tensor), name


def test_weights_by_the_names_of_keras_2_12(archive: Path, contents_of: Contents) -> None:
    """Those files list layers with weights under two names, and count both."""
    contents = contents_of(archive)
    tensors = {}
    for name, tensor in contents.tensors.items():
        _, layer, _, number = name.split("/")
        stem, _, place = layer.rpartition("_")
        if not place.isdigit():
            stem, place = layer, "0"
        doubled = f"{stem}_{2 * int(place)}" if int(place) else stem
        tensors[f"_layer_checkpoint_dependencies/{doubled}/vars/{number}"] = tensor
    config = contents.config
    old = FileContents(kind="keras archive", tensors=tensors, config=config, version="2.12.0")
    wanted = recognise(contents).model.state_dict()
    for found in (old, FileContents(kind="keras weights", tensors=tensors)):
        state = recognise(found).model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
