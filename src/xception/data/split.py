"""Splitting a validation part off the training pictures: stratified, by seed, in any file order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from xception.errors import UsageError


def validation_indices(
    labels: Sequence[int], keys: Sequence[str], *, fraction: float, seed: int
) -> list[int]:
    """Indices that go to validation: from each class `fraction` of it, at least one of two or more.

    A class of a single picture keeps it for training. Which pictures go is decided by a hash of
    `seed` and each picture's key (its path within the data set), so it depends neither on the order
    of the list nor on the machine, and most pictures keep their side when others are added.

    Raises:
        UsageError: `fraction` is not in 0..1 (1 excluded).
    """
    if not 0.0 <= fraction < 1.0:
        raise UsageError(f"val_fraction must be at least 0 and below 1, got {fraction}")
    if fraction == 0.0:
        return []
    by_class: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        by_class.setdefault(label, []).append(i)
    chosen: list[int] = []
    for members in by_class.values():
        count = min(len(members) - 1, max(1, int(len(members) * fraction + 0.5)))
        ranked = sorted(members, key=lambda i: _rank(seed, keys[i]))
        chosen.extend(ranked[:count])
    return sorted(chosen)


def _rank(seed: int, key: str) -> tuple[bytes, str]:
    text = f"{seed}\0{key}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest(), key
