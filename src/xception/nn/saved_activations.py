"""Feature maps that wait for the backward pass in half precision: half the memory of training."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from xception.ops.region import converted_map

_DTYPES = (torch.bfloat16, torch.float16)


class _Compressed:
    """What stands in the graph for a feature map."""

    __slots__ = ("__weakref__", "map", "storage")

    def __init__(self, original: Tensor, storage: StorageWeakRef, dtype: torch.dtype) -> None:
        self.map = converted_map(original.detach(), dtype)
        # Kept weakly, so that float32 memory is given back; but kept, so that no other storage gets
        # the same identity while this stands in the table.
        self.storage = storage


@contextmanager
def compress_saved_activations(dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
    """Within: autograd keeps float32 feature maps (N, C, H, W) for backward in half precision.

    with xception.compress_saved_activations():
        loss = criterion(model(pictures), labels)
    loss.backward()

    dtype: torch.bfloat16 (float32's range, 8 bits of mantissa), or torch.float16 (11 bits; maps
        with values beyond 65504 give infinite gradients)

    The forward pass is not changed, to the bit: outputs, loss, running statistics. Only what
    backward reads of a feature map is rounded; weights and gradients stay float32. docs/speed.md
    has figures of the gradients' error, the memory and the time.

    A map that several layers keep (the output of one is the input of the next) is stored once.
    Left as they are: parameters, whatever needs no gradient (the pictures), other dtypes, tensors
    of other than four axes, sparse ones. Of a gradient checkpoint the input is kept so, and what is
    computed anew from it inherits the rounding. For any model on any device, in eager mode.

    As under any saved-tensor hooks of torch, backward no longer notices that a weight was changed
    in place since the forward pass: step the optimizer after backward.
    Raises ValueError for another dtype.
    Source of the idea: Chakrabarti and Moseley 2019, arXiv 1901.07988 (backward with approximate
    activations).
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
    table: WeakValueDictionary[Hashable, _Compressed] = WeakValueDictionary()

    def pack(tensor: Tensor) -> Tensor | _Compressed:
        if not _is_feature_map(tensor):
            return tensor
        storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        layout = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.is_neg())
        key = (storage.cdata, tensor._version, *layout)
        found = table.get(key)
        if found is None:
            found = table[key] = _Compressed(tensor, storage, dtype)
        return found

    def unpack(kept: Tensor | _Compressed) -> Tensor:
        return kept if isinstance(kept, Tensor) else converted_map(kept.map, torch.float32)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _is_feature_map(tensor: Tensor) -> bool:
    return (
        tensor.dtype == torch.float32
        and tensor.dim() == 4
        and tensor.layout == torch.strided
        and not tensor.is_leaf
        # One whose axes are repeated without memory would only grow.
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
