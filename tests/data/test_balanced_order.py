"""Balanced sampling: classes equally often an epoch, pictures of a class through the epochs."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xception.data import Loader, PictureDataset, evaluation_transform
from xception.data.loader import _balanced_order
from xception.data.samples import ArraySamples
from xception.models import Preprocessing

np = pytest.importorskip("numpy")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 3))
def test_every_epoch_has_all_classes_equally_often(labels: list[int], seed: int) -> None:
    seen: Counter[int] = Counter()
    for epoch in range(6):
        order = _balanced_order(labels, seed, epoch).tolist()
        assert len(order) == len(labels)
        assert len(set(order)) == len(order)  # a repeated picture is another place
        classes = Counter(labels[place % len(labels)] for place in order)
        counts = [classes[label] for label in set(labels)]
        assert max(counts) - min(counts) <= 1
        seen.update(place % len(labels) for place in order)
    for label in set(labels):
        times = [seen[i] for i, own in enumerate(labels) if own == label]
        assert max(times) - min(times) <= 1


def test_repeats_itself_and_nothing_else() -> None:
    labels = [0] * 50 + [1] * 5
    first = _balanced_order(labels, 1, 3)
    assert torch.equal(first, _balanced_order(labels, 1, 3))
    assert not torch.equal(first, _balanced_order(labels, 2, 3))
    assert not torch.equal(first, _balanced_order(labels, 1, 4))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_draws_so_with_any_number_of_workers(workers: int) -> None:
    pictures = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    labels = [0] * 10 + [1] * 2
    samples = ArraySamples(pictures, labels, [f"{i}" for i in range(12)])
    dataset = PictureDataset(samples, evaluation_transform(Preprocessing(size=(8, 8))))
    loader = Loader(dataset, 4, shuffle_seed=0, workers=workers, balanced=True)
    batches = list(loader.epoch(1))
    loader.close()
    found = torch.cat([batch.y for batch in batches]).tolist()
    assert Counter(found) == {0: 6, 1: 6}
    places = torch.cat([batch.index for batch in batches])
    assert int(places.max()) < 12
    assert [labels[i] for i in places.tolist()] == found
