"""Items repeat by (seed, epoch, index); the cache changes nothing but time."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xception.data.cache import PictureCache
from xception.data.dataset import PictureDataset, mixed
from xception.data.samples import ArraySamples, FileSamples
from xception.data.transforms import Augmentation, evaluation_transform, train_transform
from xception.errors import DataError
from xception.models.preprocessing import Preprocessing

P = Preprocessing(size=(10, 10))
AUGMENTED = train_transform(P, Augmentation(crop="pad", crop_padding=2, flip=True, cutout=3))
Arrays = Callable[..., ArraySamples]


def test_items(array_samples: Arrays) -> None:
    dataset = PictureDataset(array_samples(), evaluation_transform(P))
    tensor, label, i = dataset[7]  # type: ignore[misc]
    assert (len(dataset), label, i) == (12, 1, 7)
    wanted = torch.from_numpy(dataset.samples.pictures[7]).permute(2, 0, 1) / 127.5 - 1  # type: ignore[attr-defined]
    torch.testing.assert_close(tensor, wanted)
    with pytest.raises(IndexError):
        dataset[12]


def test_randomness_follows_from_seed_epoch_and_index(array_samples: Arrays) -> None:
    samples = array_samples()
    dataset = PictureDataset(samples, AUGMENTED, seed=3)
    first = [dataset[i][0] for i in range(12)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = [dataset[i][0] for i in reversed(range(12))][::-1]
    assert torch.equal(torch.get_rng_state(), state)  # the training's own numbers go on unharmed
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    dataset.set_epoch(1)
    assert any(not torch.equal(dataset[i][0], first[i]) for i in range(12))
    dataset.set_epoch(0)
    assert torch.equal(dataset[5][0], first[5])
    other = PictureDataset(samples, AUGMENTED, seed=4)
    assert any(not torch.equal(other[i][0], first[i]) for i in range(12))


@pytest.mark.parametrize("crop", ["pad", "resized"])
@pytest.mark.parametrize("cache", ["auto", "ram"])
def test_the_cache_changes_nothing(array_samples: Arrays, cache: str, crop: str) -> None:
    if crop == "resized":
        pytest.importorskip("torchvision")
    transform = train_transform(P, Augmentation(crop=crop, flip=True))
    kept = PictureDataset(array_samples(), transform, cache=cache)
    plain = PictureDataset(array_samples(), transform, cache="none")
    assert kept._cache is not None and plain._cache is None
    for epoch in range(2):
        kept.set_epoch(epoch)
        plain.set_epoch(epoch)
        for i in range(12):
            assert torch.equal(kept[i][0], plain[i][0])
    assert kept._cache.bytes_used == 12 * 300


def test_filling_the_cache_decodes_each_picture_once(
    array_samples: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    real = ArraySamples.load
    monkeypatch.setattr(ArraySamples, "load", lambda self, i: loads.append(i) or real(self, i))
    dataset = PictureDataset(array_samples(), AUGMENTED)
    calls: list[tuple[int, int]] = []
    assert dataset.fill_cache(lambda done, total: calls.append((done, total))) == []
    assert calls[0] == (1, 12) and calls[-1] == (12, 12)
    for i in range(12):
        dataset[i]
    assert loads == list(range(12))


def test_a_large_set_is_not_kept(array_samples: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xception.data.dataset.AUTO_BYTES", 3599)
    assert PictureDataset(array_samples(), AUGMENTED)._cache is None
    assert PictureDataset(array_samples(), AUGMENTED, cache="ram")._cache is not None
    with pytest.raises(ValueError, match="cache must be one of"):
        PictureDataset(array_samples(), AUGMENTED, cache="disk")


def test_a_full_cache_keeps_no_more() -> None:
    cache = PictureCache(3, 3, 100)
    pictures = [torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8) for _ in range(3)]
    for i, picture in enumerate(pictures):
        cache.put(i, picture)
        cache.put(i, picture)
    assert cache.bytes_used == 96
    assert torch.equal(cache.get(0), pictures[0]) and torch.equal(cache.get(1), pictures[1])  # type: ignore[arg-type]
    assert cache.get(2) is None


def test_unreadable_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    samples = FileSamples([0, 1], [str(tmp_path / "good.png"), str(tmp_path / "bad.png")])
    dataset = PictureDataset(samples, evaluation_transform(P))
    assert dataset[1] == (None, 1, 1, "is not a picture (it holds text)")
    fetched = dataset.fetch([1, 0])
    assert fetched.values.shape == (1, 3, 10, 10) and fetched.labels.tolist() == [0]
    assert fetched.skipped == [(samples.names[1], "is not a picture (it holds text)")]
    assert dataset.fetch([1]).values.shape == (0, 3, 10, 10)
    assert dataset.fill_cache() == fetched.skipped


def test_any_callable_is_a_transform(array_samples: Arrays) -> None:
    def transform(picture: Image.Image) -> torch.Tensor:
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
        return values + torch.rand(1)

    dataset = PictureDataset(array_samples(), transform)
    tensor = dataset[0][0]
    assert tensor.shape == (3, 10, 10) and tensor.dtype == torch.float32  # type: ignore[union-attr]
    assert torch.equal(dataset[0][0], tensor)  # type: ignore[arg-type]


def test_a_transform_of_many_shapes_is_an_error(array_samples: Arrays) -> None:
    def transform(picture: Image.Image) -> torch.Tensor:
        return torch.zeros(3, 5 + int(torch.randint(0, 5, ())), 5)

    with pytest.raises(DataError, match="pictures of different shapes"):
        PictureDataset(array_samples(), transform).fetch(range(12))


def test_pickling_leaves_the_shared_memory_behind(array_samples: Arrays) -> None:
    dataset = PictureDataset(array_samples(), AUGMENTED, seed=1)
    dataset.fill_cache()
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._cache is None and torch.equal(copy[3][0], dataset[3][0])


def test_mixed_seeds() -> None:
    seeds = {mixed(s, e, i) for s in range(10) for e in range(10) for i in range(100)}
    assert len(seeds) == 10_000 and all(0 <= seed < 2**63 for seed in seeds)
    assert mixed(1, 2, 3) == 4488697490845359709  # the same on every machine
