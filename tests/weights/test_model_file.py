"""A model file brings everything back, and writing one never harms what was there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from xception.errors import ModelFileError, UsageError
from xception.models import Classifier, Preprocessing, create_model, resolved_arguments
from xception.weights import ModelDescription, load, save

Make = Callable[..., Classifier]
HEAD_LAYERS = ("linear 8", "batchnorm 0.001 0.01", "gelu", "leaky_relu 0.3", "linear 4 nobias")


def description_in(path: Path) -> ModelDescription:
    """What a model file says of its network, read as any program for safetensors can."""
    with safe_open(path, framework="pt") as file:
        return ModelDescription.from_json(file.metadata()["xception"])


def test_loaded_model_gives_the_same_numbers_and_knows_the_same(
    model: Classifier, tmp_path: Path
) -> None:
    model.preprocessing = Preprocessing(size=(28, 36), resize="squash", mean=(0.1, 0.2, 0.3))
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 28, 36)
    assert torch.equal(loaded(x), model(x))
    assert not loaded.training
    assert loaded.architecture == model.architecture
    assert loaded.class_names == ["bag", "coat", "shirt"]
    assert loaded.preprocessing == model.preprocessing
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize(
    "arguments",
    [
        {"in_channels": 1, "num_classes": 1},
        {"num_classes": 0},
        {"segments": 4, "intermediate_activation": "elu", "padding": "torch"},
        {"residual": False, "fc_units": (8, 4), "dropout": 0.25, "bn_eps": 1e-5, "bn_momentum": 1},
        {"output_stride": 8},
        {"pooling": "max", "head_layers": HEAD_LAYERS, "dropout": 0.25},
    ],
)
def test_every_architecture_argument_survives(
    arguments: dict[str, object], tmp_path: Path, tiny: Make
) -> None:
    model = tiny(**arguments)
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    x = torch.randn(2, model.in_channels, 32, 32)
    assert torch.equal(loaded(x), model(x))
    assert str(loaded) == str(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_memory_formats(
    dtype: torch.dtype, tmp_path: Path, tiny: Make
) -> None:
    model = tiny().to(dtype).to(memory_format=torch.channels_last)
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_the_description_is_read_without_the_weights(model_path: Path) -> None:
    info = description_in(model_path)
    assert info.architecture == {
        "name": "xception_tiny",
        "args": resolved_arguments("xception_tiny", num_classes=3),
    }
    assert info.class_names == ["bag", "coat", "shirt"]
    assert info.format_version == 1
    assert info.provenance["data"] == "pictures/"
    assert set(info.provenance["versions"]) == {"xception", "torch", "python"}


def test_files_that_hold_only_the_arguments_given_still_load(
    model: Classifier, tmp_path: Path
) -> None:
    resolved = model.architecture
    model.architecture = {"name": "xception_tiny", "args": {"num_classes": 3, "in_channels": 3}}
    save(model, tmp_path / "m.safetensors")
    assert description_in(tmp_path / "m.safetensors").architecture == model.architecture
    loaded = load(tmp_path / "m.safetensors")
    assert loaded.architecture == resolved
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))


def test_files_from_before_the_head_had_layers_still_load(tmp_path: Path, tiny: Make) -> None:
    """They hold every argument of their time, and so neither `pooling` nor `head_layers`."""
    model = tiny(fc_units=(8,))
    resolved = model.architecture
    args = {k: v for k, v in resolved["args"].items() if k not in ("pooling", "head_layers")}
    model.architecture = {"name": "xception_tiny", "args": args}
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    assert loaded.architecture == resolved
    assert (resolved["args"]["pooling"], resolved["args"]["head_layers"]) == ("avg", [])
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))


def test_a_network_for_grey_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("mini_xception", num_classes=7).eval()
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert loaded.preprocessing == model.preprocessing and loaded.preprocessing.channels == 1


def test_the_file_is_plain_safetensors_for_other_programs(model_path: Path) -> None:
    with safe_open(model_path, framework="pt") as file:
        assert list(file.metadata()) == ["xception"]
        assert file.get_tensor("head.fc.weight").shape == (3, 256)


def test_saving_twice_gives_the_same_bytes(model: Classifier, model_path: Path) -> None:
    again = model_path.with_name("again")
    save(model, again, provenance={"data": "pictures/"})
    assert again.read_bytes() == model_path.read_bytes()


def test_any_name_of_a_class_survives(tmp_path: Path, tiny: Make) -> None:
    model = tiny()
    model.class_names = ["naïve 猫 \U0001f600", "undecodable \udc80", 'quote " \\ \n \x00']
    save(model, tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").class_names == model.class_names


def test_a_run_folder_stands_for_its_model(model_path: Path) -> None:
    assert load(model_path.parent).class_names == ["bag", "coat", "shirt"]
    assert load(str(model_path.parent)).class_names == ["bag", "coat", "shirt"]


def test_loading_leaves_random_numbers_alone(model_path: Path) -> None:
    before = torch.get_rng_state()
    load(model_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loaded_model_does_not_depend_on_the_file_any_more(model_path: Path) -> None:
    loaded = load(model_path)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    model_path.write_bytes(b"\0" * model_path.stat().st_size)
    assert all(torch.equal(before[name], value) for name, value in loaded.state_dict().items())


def test_a_loaded_model_can_be_trained_and_saved_again(model_path: Path) -> None:
    loaded = load(model_path).train()
    loaded(torch.randn(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    save(loaded, model_path)
    assert load(model_path).class_names == ["bag", "coat", "shirt"]


def test_a_device_that_is_not_there(model_path: Path) -> None:
    for device in ("cuda:99", "abacus", "meta"):
        with pytest.raises(UsageError, match="device '"):
            load(model_path, device=device)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_memory_stays_at_twice_the_tensors(tmp_path: Path, tiny: Make) -> None:
    path = tmp_path / "m.safetensors"
    save(tiny(fc_units=(4096, 2048)), path)
    program = (
        "import resource, sys, torch, safetensors.torch\n"
        "from xception.weights import load\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "import xception.models, xception.weights.model_file\n"
        "before = peak(); load(sys.argv[1]); print((peak() - before) * 1024)"
    )
    command = [sys.executable, "-c", program, str(path)]
    used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert used < 2.4 * path.stat().st_size


# ---------------------------------------------------------------- what must not be written


def refused(model: nn.Module, path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        save(model, path)  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_models_that_could_not_be_loaded_are_refused(tmp_path: Path, tiny: Make) -> None:
    path = tmp_path / "m.safetensors"
    assert "Linear" in refused(nn.Linear(2, 2), path)
    assert "FeatureExtractor" in refused(create_model("xception_tiny", features_only=True), path)

    nameless = tiny()
    nameless.architecture = {}
    assert "create_model" in refused(nameless, path)

    changed = tiny()
    changed.head.fc = nn.Linear(256, 5)
    assert "head.fc.weight is 5x256, the network needs 3x256" in refused(changed, path)

    longer = tiny()
    longer.head.fc_layers.append(nn.Linear(256, 256))
    assert "head.fc_layers.0.weight" in refused(longer, path)

    mixed = tiny()
    mixed.head.half()
    assert "mixes precisions" in refused(mixed, path)

    broken = tiny()
    broken.stem.conv1.weight.data[0, 0, 0, 0] = float("nan")  # type: ignore[union-attr]
    assert "NaN or infinite weights in stem.conv1.weight" in refused(broken, path)

    for names, finding in (
        (["a", "b"], "names 2 classes but has 3"),
        (["a", "b", "a"], "alike: 'a'"),
        (["a", "b", "c" * 1001], "1,001 characters"),
    ):
        named = tiny()
        named.class_names = names
        assert finding in refused(named, path)
    assert list(tmp_path.iterdir()) == []


def test_provenance_must_be_plain_json(model: Classifier, tmp_path: Path) -> None:
    for value in (float("nan"), {1, 2}, torch.zeros(1)):
        with pytest.raises(ModelFileError, match="not plain JSON"):
            save(model, tmp_path / "m", provenance={"value": value})


def test_reset_classifier_is_saved_with_its_new_classes(tmp_path: Path, tiny: Make) -> None:
    model = tiny()
    model.reset_classifier(5)
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").num_classes == 5


# ---------------------------------------------------------------- where it cannot be written


def test_places_that_cannot_be_written(model: Classifier, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    for path, finding in (
        (tmp_path / "missing" / "m.safetensors", "No such file or directory"),
        (tmp_path / "file" / "m.safetensors", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "nul\0", "null"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "not a plain file"),
    ):
        assert finding in refused(model, path)
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_full_disk_leaves_the_old_file(
    model: Classifier, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model_path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused(model, model_path)
    assert model_path.read_bytes() == before
    assert os.listdir(model_path.parent) == [model_path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_a_write_that_fails_midway_leaves_the_old_file(model_path: Path) -> None:
    before = model_path.read_bytes()
    program = (
        "import resource, signal, sys\n"
        "from xception.errors import ModelFileError\n"
        "from xception.weights import load, save\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "model = load(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try: save(model, sys.argv[1])\n"
        "except ModelFileError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(model_path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "File too large" in shown
    assert model_path.read_bytes() == before
    assert os.listdir(model_path.parent) == [model_path.name]


def test_a_link_stays_a_link(model: Classifier, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    save(model, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").is_file()
