"""Tensors out of the records that torch's pickles hold, built by our own code.

torch writes a tensor as a call of one of its rebuilding functions with a storage, an offset, sizes
and strides. All are checked against the bytes that the file holds before any memory is taken.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from xception.weights.files.pickle_values import Made, Name, pairs_of
from xception.weights.files.torch_storages import Storages, StorageView, view_of
from xception.weights.header import MAX_AXES
from xception.weights.wording import quoted

MAX_EXPANSION = 4  # bytes of all tensors / bytes of the storages that they are views of
FREE_BYTES = 2**20  # bytes of tensors that need no storage of their size: expanded constants
MAX_UNUSED_BYTES = 16 * 2**20  # of a storage that no wanted tensor uses
_MAX_NUMBERS = 2**40  # of a tensor
_MAX_WRAPPINGS = 8

_AGAIN = "copy or download it again"
_PLAIN = "save the weights as plain float tensors"

# rebuilding functions, and classes, whose first argument is the tensor itself
_WRAPPINGS: Final = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.autograd.variable.Variable",
}
# a tensor with attributes of its own: function, class, arguments, attributes
_WITH_STATE: Final = {
    f"torch.{module}.{function}"
    for module in ("_tensor", "tensor")
    for function in ("_rebuild_from_type", "_rebuild_from_type_v2")
}
_STRIDED: Final = {  # function: place of its metadata among the arguments
    "torch._utils._rebuild_tensor": 4,
    "torch._utils._rebuild_tensor_v2": 6,
    "torch._utils._rebuild_tensor_v3": 7,
}
_REFUSED: Final = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "without numbers (on the meta device)",
    "torch._utils._rebuild_wrapper_subclass": "of a tensor class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device, kept as a NumPy array",
    "torch._utils._rebuild_xla_tensor": "of another device, kept as a NumPy array",
}
_DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
        *(torch.int64, torch.int32, torch.int16, torch.int8),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
    )
}


@dataclass(frozen=True, slots=True)
class Layout:
    """A checked view of a storage; offset and stride are counted in numbers, not bytes."""

    storage: StorageView
    dtype: torch.dtype
    offset: int  # from the beginning of the whole storage
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.size) * self.dtype.itemsize

    @property
    def is_whole(self) -> bool:
        """Whether it has each number of its storage once, in whatever order of the axes."""
        expected = 1
        for stride, size in sorted(zip(self.stride, self.size)):
            if size != 1:
                if stride != expected:
                    return False
                expected *= size
        return self.bytes == self.storage.total * self.storage.dtype.itemsize


def is_tensor(value: Any) -> bool:
    """Whether `value` is the record of a tensor of any kind, readable or not."""
    if not isinstance(value, Made) or not isinstance(value.function, Name):
        return False
    function = str(value.function)
    return (
        function in _STRIDED
        or function in _WRAPPINGS
        or function in _WITH_STATE
        or function in _REFUSED
        or function.startswith("torch._utils._rebuild_")
    )


def layout_of(value: Made, name: str) -> Layout:
    """The layout of the tensor `name` whose record is `value`.

    Raises ValueError naming the tensor when it is not plain or reaches beyond its storage.
    """
    shown = f"tensor {quoted(name)!r}"
    function, arguments = _unwrapped(value, shown)
    storage = view_of(arguments[0], shown)
    dtype: torch.dtype | None = storage.dtype
    if function == "torch._utils._rebuild_tensor_v3":
        dtype = _dtype_of(arguments[6])
    if dtype is None or dtype not in _DTYPES.values():
        which = f"dtype {dtype}" if dtype else "dtype is not known here and"
        raise ValueError(f"holds {shown}, whose {which} cannot be used; {_PLAIN}")
    if _is_lazy(arguments[_STRIDED[function] :]):
        raise ValueError(f"holds {shown}, which is a view of a complex tensor; {_PLAIN}")
    size, stride, offset = _counts(arguments[2]), _counts(arguments[3]), arguments[1]
    if size is None or stride is None or len(size) != len(stride):
        raise ValueError(f"is damaged: {shown} has no proper shape; {_AGAIN}")
    if type(offset) is not int or not 0 <= offset <= storage.count:
        raise ValueError(f"is damaged: {shown} begins outside of its storage; {_AGAIN}")
    if math.prod(max(s, 1) for s in size) > _MAX_NUMBERS:
        raise ValueError(f"is damaged: {shown} claims more than {_MAX_NUMBERS:,} numbers; {_AGAIN}")
    # a storage without a type counts bytes, the others the tensor's numbers
    first = storage.first * storage.dtype.itemsize // dtype.itemsize
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum((s - 1) * t for s, t in zip(size, stride))
    if 0 not in size and last >= available:
        raise ValueError(
            f"is damaged: {shown} reaches beyond the {available:,} numbers of its storage; {_AGAIN}"
        )
    return Layout(storage, dtype, first + offset, size, stride)


def read_tensors(layouts: Mapping[str, Layout], storages: Storages) -> dict[str, Tensor]:
    """The tensors of `layouts`, in that order, on the CPU with the strides they were saved with.

    Those that use a storage whole share its memory, as they did; others are copies, so that no
    tensor keeps more memory than it needs. Raises ValueError when the tensors claim more than the
    storages hold, or a storage is not there.
    """
    users: dict[str, dict[Layout, str]] = {}  # storage -> its different views -> a name of each
    for name, layout in layouts.items():
        users.setdefault(layout.storage.key, {}).setdefault(layout, name)
    sizes = {key: _checked_size(views, storages) for key, views in users.items()}
    copied = [layout for layout in {*layouts.values()} if not layout.is_whole]
    claimed, held = sum(layout.bytes for layout in copied), sum(sizes.values())
    if claimed > FREE_BYTES + MAX_EXPANSION * held:
        raise ValueError(
            f"claims tensors of {claimed:,} bytes out of {held:,} that it holds; it is damaged or "
            "no model file"
        )
    tensors: dict[Layout, Tensor] = {}
    for key, views in users.items():
        content = _read_storage(storages, key, sizes[key], next(iter(views)).dtype)
        tensors.update((layout, _built(layout, content)) for layout in views)
    return {name: tensors[layout] for name, layout in layouts.items()}


def _unwrapped(value: Made, shown: str) -> tuple[str, tuple[Any, ...]]:
    """The function that rebuilds the tensor itself, and its arguments."""
    function, arguments = _dotted(value.function), value.arguments
    for _ in range(_MAX_WRAPPINGS):
        if function in _STRIDED:
            if _STRIDED[function] <= len(arguments) <= _STRIDED[function] + 1:
                return function, arguments
            break
        if function in _REFUSED:
            raise ValueError(f"holds {shown}, which is {_REFUSED[function]}; {_PLAIN}")
        inner = arguments[0] if arguments else None
        if function in _WRAPPINGS and isinstance(inner, Made):
            function, arguments = _dotted(inner.function), inner.arguments
        elif function in _WITH_STATE and len(arguments) == 4 and isinstance(arguments[2], tuple):
            function, arguments = _dotted(inner), arguments[2]
        else:
            break
    how = f"by {quoted(function)}" if function else "without a name"
    raise ValueError(f"holds {shown}, which is rebuilt {how} in a way not known here; {_PLAIN}")


def _dotted(function: Any) -> str:
    return str(function) if isinstance(function, Name) else ""


def _dtype_of(value: Any) -> torch.dtype | None:
    named = isinstance(value, Name) and value.module == "torch"
    return _DTYPES.get(value.name) if named else None


def _is_lazy(metadata: tuple[Any, ...]) -> bool:
    """Whether the tensor is to be conjugated or negated, which happens to views of complex ones."""
    return any(value is True for pairs in metadata for _, value in pairs_of(pairs) or ())


def _counts(value: Any) -> tuple[int, ...] | None:
    """A shape or strides: a tuple of at most MAX_AXES counts, or a torch.Size of one."""
    if isinstance(value, Made) and _dotted(value.function) == "torch.Size" and value.arguments:
        value = value.arguments[0]
    if not isinstance(value, (tuple, list)) or len(value) > MAX_AXES:
        return None
    if not all(type(count) is int and 0 <= count < 2**48 for count in value):
        return None
    return tuple(value)


def _checked_size(views: Mapping[Layout, str], storages: Storages) -> int:
    """Bytes of the storage that all of `views` are of; the names are for errors."""
    first = next(iter(views))
    size = storages.size(first.storage.key)
    if size is None:
        raise ValueError(
            f"is damaged: the numbers of tensor {quoted(views[first])!r} are missing; {_AGAIN}"
        )
    for layout, name in views.items():
        claimed = layout.storage.total * layout.storage.dtype.itemsize
        if size != claimed:
            raise ValueError(
                f"is damaged: the storage of tensor {quoted(name)!r} takes {claimed:,} bytes, "
                f"{size:,} are there; {_AGAIN}"
            )
    used = sum(layout.bytes for layout in views)
    if size > used + MAX_UNUSED_BYTES:
        raise ValueError(
            f"holds tensor {quoted(views[first])!r} as a part of {size:,} bytes; save it again "
            "with .clone() of each tensor"
        )
    return size


def _read_storage(storages: Storages, key: str, size: int, dtype: torch.dtype) -> Tensor:
    """The bytes of a storage (size,), in this machine's order."""
    try:
        content = torch.empty(size, dtype=torch.uint8)
    except RuntimeError:  # the allocator's
        raise ValueError(
            f"needs {size:,} bytes of memory for one tensor, which are not there"
        ) from None
    target = content.numpy()
    at = 0
    for piece in storages.pieces(key):
        target[at : at + len(piece)] = memoryview(piece)
        at += len(piece)
    if storages.byte_order != sys.byteorder and dtype.itemsize > 1:
        whole = size // dtype.itemsize * dtype.itemsize
        target[:whole].view(f"u{dtype.itemsize}").byteswap(inplace=True)
    return content


def _built(layout: Layout, content: Tensor) -> Tensor:
    if 0 in layout.size:
        return torch.empty(layout.size, dtype=layout.dtype)
    is_bool = layout.dtype == torch.bool
    whole = content.numel() // layout.dtype.itemsize * layout.dtype.itemsize
    numbers = content[:whole].view(torch.uint8 if is_bool else layout.dtype)
    view = numbers.as_strided(layout.size, layout.stride, layout.offset)
    if is_bool:
        return view != 0  # a byte that is neither 0 nor 1 is no bool
    return view if layout.is_whole else view.clone()
