"""From library to library and back: the same tensors, the same numbers, or a plain line."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xception.errors import ModelFileError, UsageError
from xception.models import Classifier, create_model
from xception.weights import Parity, convert, load, parity, save
from xception.weights.parity import parity_with_keras, parity_with_timm

Tiny = Callable[..., Classifier]


def randomized(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network.eval()


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    timm = pytest.importorskip("timm")
    network = randomized(timm.create_model("legacy_xception", num_classes=3))
    path = tmp_path_factory.mktemp("timm") / "theirs.pth"
    torch.save(network.state_dict(), path)
    return path


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype, name


def test_timm_and_back_is_bit_identical(timm_file: Path, tmp_path: Path) -> None:
    there = convert(timm_file, tmp_path / "m.safetensors", classes=["a", "b", "c"])
    assert there.report.dialect.startswith("timm") and there.report.choices
    assert isinstance(there.parity, Parity) and there.parity.float64 < 1e-10
    assert load(tmp_path / "m.safetensors").class_names == ["a", "b", "c"]
    stages: list[str] = []
    back = convert(tmp_path / "m.safetensors", tmp_path / "back.pth", stage=stages.append)
    assert back.target == "timm" and isinstance(back.parity_after, Parity)
    assert stages == ["writing back.pth", "comparing back.pth with timm"]
    assert sorted(back.written) == sorted((here, name) for name, here in there.report.mapped)
    assert there.written == ()  # their names in our file are our own
    expected = torch.load(timm_file, weights_only=True)
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True), expected)
    convert(tmp_path / "m.safetensors", tmp_path / "b.safetensors", to="timm", check=False)
    found = load_file(tmp_path / "b.safetensors")
    assert_same({name: found[name] for name in expected}, expected)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_keras_and_back_is_bit_identical(tiny: Tiny, tmp_path: Path, name: str) -> None:
    pytest.importorskip("h5py")
    model = create_model("xception", num_classes=3)
    assert isinstance(model, Classifier)
    randomized(model)
    model.class_names = ["bag", "coat", "shirt"]
    save(model, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / name, check=False)
    convert(tmp_path / name, tmp_path / "back.safetensors", check=False)
    back = load(tmp_path / "back.safetensors")
    counts = {n for n in model.state_dict() if n.endswith("num_batches_tracked")}  # not in Keras
    expected = {n: v for n, v in model.state_dict().items() if n not in counts}
    assert_same({n: v for n, v in back.state_dict().items() if n not in counts}, expected)
    assert back.architecture == model.architecture
    if name == "m.keras":  # beside Keras's own entries there is room for ours
        assert back.class_names == ["bag", "coat", "shirt"]
        assert back.preprocessing == model.preprocessing


def test_what_has_no_equal_there_is_refused_and_nothing_written(tiny: Tiny, tmp_path: Path) -> None:
    save(tiny(), tmp_path / "m.safetensors")
    for name, reason in (("m.pth", "timm does not have"), ("m.weights.h5", "unevenly")):
        if name == "m.weights.h5":
            save(tiny(segments=3), tmp_path / "m.safetensors")
        with pytest.raises(ModelFileError, match=reason):
            convert(tmp_path / "m.safetensors", tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("name", "to", "reason"),
    [
        ("m.onnx", None, "no file of weights that can be written ends so"),
        ("m.pth", "keras", "a file for keras ends in .keras or .weights.h5"),
        ("m.pth", "caffe", "to must be one of"),
    ],
)
def test_wrong_targets(model_path: Path, tmp_path: Path, name: str, to: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        convert(model_path, tmp_path / name, to=to)


def test_wrong_names_and_changes(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names 2 classes but has 3"):
        convert(model_path, tmp_path / "n.safetensors", classes=["a", "b"])
    with pytest.raises(UsageError, match="size"):
        convert(model_path, tmp_path / "n.safetensors", changes={"size": (0, 0)})
    assert not (tmp_path / "n.safetensors").exists()


def test_changes_of_the_preprocessing(model_path: Path, tmp_path: Path) -> None:
    changes = {"size": (48, 48), "interpolation": "nearest", "resize": "squash"}
    convert(model_path, tmp_path / "n.safetensors", changes=changes)
    changed = load(tmp_path / "n.safetensors").preprocessing
    assert (changed.size, changed.interpolation, changed.resize) == ((48, 48), "nearest", "squash")


def test_parity_finds_a_difference(timm_file: Path) -> None:
    model = load(timm_file)
    tensors = torch.load(timm_file, weights_only=True)
    same = parity_with_timm("legacy_xception", tensors, model)
    assert isinstance(same, Parity) and same.float64 < 1e-12 < same.largest
    assert "largest difference of the logits" in str(same)
    assert f"relative to the largest logit ({same.largest:.3g})" in str(same)
    tensors["fc.bias"] = tensors["fc.bias"] + 0.25
    other = parity_with_timm("legacy_xception", tensors, model)
    assert isinstance(other, Parity) and other.float64 == pytest.approx(0.25)


def test_small_logits_allow_small_differences_alone() -> None:
    """What an untrained network gives may be 1e-5: a thousandth of that is no rounding."""

    def found(float64: float, largest: float) -> Parity:
        return Parity(library="a", size=(9, 9), float32=0.0, float64=float64, largest=largest)

    assert found(1e-15, 1e-5).is_good and not found(1e-8, 1e-5).is_good
    assert found(0.0, 0.0).is_good and not found(1e-12, 0.0).is_good
    assert str(found(0.0, 0.0)).endswith("(all logits are 0)")


def test_weights_alone_that_do_not_tell_their_network(tmp_path: Path) -> None:
    """Their names are not known, and nothing is compared."""
    pytest.importorskip("h5py")
    model = create_model("mini_xception", num_classes=3)
    assert isinstance(model, Classifier)
    save(model, tmp_path / "m.safetensors")
    done = convert(tmp_path / "m.safetensors", tmp_path / "m.weights.h5")
    assert done.written == () and "network cannot be told" in str(done.parity_after)
    done = convert(tmp_path / "m.safetensors", tmp_path / "m.weights.h5", check=False)
    assert done.written == () and done.parity_after is None


def test_without_the_other_library_it_says_so(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    found = parity_with_keras({}, tmp_path / "m.keras", tiny(), takes_raw=False)
    assert found == "Keras is not installed"
    assert parity_with_timm("legacy_xception", {}, tiny()) == "timm is not installed"


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed")
def test_a_file_with_its_own_scaling_is_compared_rightly(tmp_path: Path) -> None:
    """Keras gets pictures of 0..255 there; random layers that say training=True stand still."""
    model = randomized(create_model("mini_xception", num_classes=3))
    assert isinstance(model, Classifier)
    save(model, tmp_path / "m.safetensors")
    convert(tmp_path / "m.safetensors", tmp_path / "m.keras", check=False)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    layers = config["config"]["layers"]
    between = []
    before = layers[0]["name"]
    for kind, settings, options in (
        ("RandomFlip", {"mode": "horizontal"}, {"training": True}),
        ("Rescaling", {"scale": 1 / 127.5, "offset": -1.0}, {}),
    ):
        tensor = {"shape": [None, 64, 64, 1], "dtype": "float32", "keras_history": [before, 0, 0]}
        node = {"args": [{"class_name": "__keras_tensor__", "config": tensor}], "kwargs": options}
        before = kind.lower()
        between.append(
            {
                "module": "keras.layers",
                "class_name": kind,
                "config": {"name": before, "dtype": "float32", **settings},
                "registered_name": None,
                "name": before,
                "inbound_nodes": [node],
            }
        )
    first = layers[1]["inbound_nodes"][0]["args"][0]["config"]["keras_history"]
    first[0] = before
    config["config"]["layers"] = [layers[0], *between, *layers[1:]]
    members["config.json"] = json.dumps(config).encode()
    members["metadata.json"] = b'{"keras_version": "3.0.0"}'
    with zipfile.ZipFile(tmp_path / "scaled.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    done = convert(tmp_path / "scaled.keras", tmp_path / "n.safetensors")
    assert isinstance(done.parity, Parity), done.parity
    assert done.parity.is_good and done.parity.largest > 1e-3


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed")
def test_modules_beside_the_users_file_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomized(create_model("mini_xception", num_classes=3))
    assert isinstance(model, Classifier)
    save(model, tmp_path / "m.safetensors")
    for name in ("keras", "numpy", "torch", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'witness')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    done = convert("m.safetensors", "m.keras")
    assert isinstance(done.parity_after, Parity) and done.parity_after.is_good
    assert not (tmp_path / "witness").exists()


def test_what_keras_cannot_make_is_no_crash(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("keras")
    (tmp_path / "w.h5").write_bytes(b"nothing")
    config = {"module": "keras", "class_name": "Functional", "config": {"layers": []}}
    found = parity_with_keras(config, tmp_path / "w.h5", tiny(), takes_raw=False)
    assert isinstance(found, str) and found.startswith("Keras cannot load it")
