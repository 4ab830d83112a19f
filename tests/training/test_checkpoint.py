from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from xception.errors import TrainingError
from xception.training.checkpoint import load_checkpoint, save_checkpoint


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.pt"
    save_checkpoint(path, {"a": torch.arange(3), "b": {"c": [1, "x"]}})
    state = load_checkpoint(path)
    assert state["b"] == {"c": [1, "x"]}
    assert torch.equal(state["a"], torch.arange(3))
    assert os.listdir(path.parent) == ["last.pt"]


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(TrainingError, match="nothing to resume"):
        load_checkpoint(path)
    save_checkpoint(path, {"a": torch.zeros(10_000)})
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="damaged") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(marker),)

    path = tmp_path / "last.pt"
    torch.save({"format": 1, "x": Hostile()}, path)
    with pytest.raises(TrainingError):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(TrainingError):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"a": 1})

    class Unwritable:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match="No space left on device; make room"):
        save_checkpoint(path, {"a": Unwritable()})
    assert load_checkpoint(path)["a"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]
