"""The same batches with any number of workers, from any starting point."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from xception.data.dataset import PictureDataset
from xception.data.loader import Batch, Loader, batches, evaluation_loader
from xception.data.samples import ArraySamples, FileSamples
from xception.data.transforms import Augmentation, train_transform
from xception.errors import DataError
from xception.models.preprocessing import Preprocessing

P = Preprocessing(size=(10, 10))
AUGMENTED = train_transform(P, Augmentation(crop="pad", crop_padding=2, flip=True))
Arrays = Callable[..., ArraySamples]


@pytest.fixture
def dataset(array_samples: Arrays) -> PictureDataset:
    return PictureDataset(array_samples(50), AUGMENTED, seed=5)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.x, b.x)
        and torch.equal(a.y, b.y)
        and torch.equal(a.index, b.index)
        and a.number == b.number
        for a, b in zip(one, other, strict=True)
    )


def test_batches_have_their_form(dataset: PictureDataset) -> None:
    loader = Loader(dataset, 16, shuffle_seed=0)
    found = list(loader.epoch(0))
    assert [len(batch) for batch in found] == [16, 16, 16, 2] and len(loader) == 4
    first = found[0]
    assert first.x.dtype == torch.float32 and first.x.shape == (16, 3, 10, 10)
    assert first.x.is_contiguous(memory_format=torch.channels_last)
    assert first.y.dtype == first.index.dtype == torch.int64
    assert first.y.tolist() == [i % 3 for i in first.index.tolist()]
    assert sorted(i for batch in found for i in batch.index.tolist()) == list(range(50))


def test_drop_last(dataset: PictureDataset) -> None:
    found = list(batches(dataset, 16, shuffle_seed=0, drop_last=True))
    assert [len(batch) for batch in found] == [16, 16, 16]


def test_order_follows_from_seed_and_epoch(dataset: PictureDataset) -> None:
    loader = Loader(dataset, 16, shuffle_seed=0)
    first = list(loader.epoch(0))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert same(first, list(loader.epoch(0)))
    assert torch.equal(state, torch.get_rng_state())
    assert not same(first, list(loader.epoch(1)))
    assert not same(first, list(batches(dataset, 16, shuffle_seed=1)))


def test_workers_give_the_same_batches_and_stay(dataset: PictureDataset) -> None:
    plain = Loader(dataset, 16, shuffle_seed=0)
    loader = Loader(dataset, 16, shuffle_seed=0, workers=2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    pids = set()
    for epoch in range(3):
        assert same(list(plain.epoch(epoch)), list(loader.epoch(epoch)))
        pids |= {worker.pid for worker in loader._loader._iterator._workers}  # type: ignore[union-attr]
    assert len(pids) == 2
    assert same(list(plain.epoch(7, 2)), list(loader.epoch(7, 2)))
    next(iterator := loader.epoch(0))  # left in the middle, as by Ctrl-C
    del iterator
    assert same(list(plain.epoch(1)), list(loader.epoch(1)))
    assert torch.equal(state, torch.get_rng_state())
    loader.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert same(list(plain.epoch(1)), list(loader.epoch(1)))
    loader.close()


def test_workers_share_the_cache(array_samples: Arrays) -> None:
    dataset = PictureDataset(array_samples(50), AUGMENTED)
    assert len(list(batches(dataset, 10, shuffle_seed=0, workers=2))) == 5
    assert dataset._cache is not None and dataset._cache.bytes_used == 50 * 300


def test_start_batch_decodes_nothing_before(
    dataset: PictureDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(batches(dataset, 8, shuffle_seed=3, epoch=4))
    loads: list[int] = []
    real = ArraySamples.load
    monkeypatch.setattr(ArraySamples, "load", lambda self, i: loads.append(i) or real(self, i))
    again = PictureDataset(dataset.samples, AUGMENTED, seed=5, cache="none")
    rest = list(batches(again, 8, shuffle_seed=3, epoch=4, start_batch=5))
    assert same(whole[5:], rest) and len(loads) == 10


def test_a_dead_worker_is_one_clear_line(dataset: PictureDataset) -> None:
    loader = Loader(dataset, 1, shuffle_seed=0, workers=1)
    iterator = loader.epoch(0)
    next(iterator)
    os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="a data worker process died") as caught:
        for _ in iterator:
            pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_transform_stays_what_it_is(array_samples: Arrays, workers: int) -> None:
    def transform(picture: Image.Image) -> torch.Tensor:
        raise OSError("the transform's own")

    dataset = PictureDataset(array_samples(), transform)
    with pytest.raises(OSError, match="the transform's own"):
        list(batches(dataset, 4, shuffle_seed=0, workers=workers))


def test_unreadable_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    paths = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (4, 4), (i, i, i)).save(path)
        paths.append(str(path))
    for i in (1, 4, 5):
        Path(paths[i]).write_bytes(b"")
    samples = FileSamples([0, 1, 0, 1, 0, 1], paths)
    for workers in (0, 1):
        found = list(evaluation_loader(samples, P, 2, workers=workers).epoch())
        assert [batch.index.tolist() for batch in found] == [[0], [2, 3], []]
        assert [len(batch.skipped) for batch in found] == [1, 0, 2]
        assert found[0].skipped == [(paths[1], "is an empty file")]
        assert found[2].x.shape == (0, 3, 10, 10) and found[2].x.dtype == torch.float32


def test_evaluation_shows_every_picture_once_in_order(array_samples: Arrays) -> None:
    loader = evaluation_loader(array_samples(23), P, 5)
    assert [i for batch in loader.epoch() for i in batch.index.tolist()] == list(range(23))


def test_wrong_numbers() -> None:
    samples = FileSamples([], [])
    with pytest.raises(ValueError, match="batch_size 0"):
        evaluation_loader(samples, P, 0)
    assert list(evaluation_loader(samples, P, 4).epoch()) == []
