"""Who reads whose output, learned by running the network once.

Modules of interest say when they are called; every other function that takes one of their outputs
is seen by torch's function mode. Tensors are told apart by identity, so what an operation in place
returns is its own output from then on, as it is in the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xception.fusion.calls import ADDITIONS, ADDITIONS_IN_PLACE, QUESTIONS

ADDITION = "+"
OUTPUT = "the network's output"


@dataclass
class Seen:
    """One module's calls.

    sources: what made its input, a module, or None for anything else
    readers: who read its output: modules, or the names of functions (ADDITION: `+` of one shape)
    """

    input_shapes: list[torch.Size] = field(default_factory=list)
    sources: list[nn.Module | None] = field(default_factory=list)
    readers: list[nn.Module | str] = field(default_factory=list)


class _Functions(TorchFunctionMode):
    def __init__(self, recording: _Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.recording.depth == 0 and func not in QUESTIONS:
            self.recording.read_by_function(func, args, kwargs)
        out = func(*args, **kwargs)
        if self.recording.depth == 0 and func not in QUESTIONS:
            self.recording.made_by(None, out)
        return out


class _Recording:
    def __init__(self) -> None:
        self.seen: dict[nn.Module, Seen] = {}
        self.depth = 0
        self._makers: dict[int, nn.Module] = {}
        self._alive: list[Tensor] = []  # so that no identity is given out twice

    def made_by(self, maker: nn.Module | None, out: Any) -> None:
        for tensor in _tensors(out):
            if maker is None:
                self._makers.pop(id(tensor), None)
            else:
                self._alive.append(tensor)
                self._makers[id(tensor)] = maker

    def read_by(self, reader: nn.Module | str, tensor: Tensor) -> nn.Module | None:
        maker = self._makers.get(id(tensor))
        if maker is not None:
            self.seen[maker].readers.append(reader)
        return maker

    def read_by_function(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        name = getattr(func, "__name__", str(func))
        is_sum = len(args) == 2 and not kwargs and _fit(*args)
        if is_sum and func in ADDITIONS_IN_PLACE:  # which only a normalization can take over
            is_sum = id(args[0]) in self._makers
        elif func not in ADDITIONS:
            is_sum = False
        for tensor in _tensors((args, kwargs)):
            self.read_by(ADDITION if is_sum else name, tensor)

    def enter(self, module: nn.Module, args: Any) -> None:
        self.depth += 1
        if self.depth > 1:
            return
        seen = self.seen.setdefault(module, Seen())
        for tensor in _tensors(args):
            seen.input_shapes.append(tensor.shape)
            seen.sources.append(self.read_by(module, tensor))

    def leave(self, module: nn.Module, out: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.made_by(module, out)


def record(
    network: nn.Module, modules: Iterable[nn.Module], example: Tensor
) -> dict[nn.Module, Seen]:
    """What was seen of each of `modules` in one run, in the order of their first calls.

    The network is run in eval mode without gradients, so nothing in it changes.
    """
    recording = _Recording()
    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(recording.enter))
        handles.append(module.register_forward_hook(lambda m, _, out: recording.leave(m, out)))
    try:
        with in_eval(network), torch.no_grad(), _Functions(recording):
            out = network(example)
        for tensor in _tensors(out):
            recording.read_by(OUTPUT, tensor)
    finally:
        for handle in handles:
            handle.remove()
    return recording.seen


@contextmanager
def in_eval(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards each in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _fit(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
