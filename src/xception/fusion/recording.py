"""Who reads whose output, learned by running the network once.

Modules of interest say when they are called, and all others when one of those outputs goes in or
out; every other function that takes one is seen by torch's function mode. Tensors are told apart by
identity, so what an operation in place returns is its own output from then on, as it is in the
network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xception.fusion.calls import ADDITIONS, ADDITIONS_IN_PLACE, QUESTIONS
from xception.fusion.promise import version_of

ADDITION = "+"
OUTPUT = "the network's output"


@dataclass
class Seen:
    """One module's calls.

    sources: what made its input, a module, or None for anything else
    readers: who read its output: modules, or the names of functions (ADDITION: `+` of one shape)
    containers: modules that its output went into or out of on the way to them
    is_overwritten: something has changed its input in place after the call
    """

    input_shapes: list[torch.Size] = field(default_factory=list)
    sources: list[nn.Module | None] = field(default_factory=list)
    readers: list[nn.Module | str] = field(default_factory=list)
    containers: list[nn.Module] = field(default_factory=list)
    is_overwritten: bool = False


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
        self._inputs: list[tuple[nn.Module, Tensor, int | None]] = []

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

    def enter(self, module: nn.Module, *given: Any) -> None:
        self.depth += 1
        if self.depth > 1:
            return
        seen = self.seen.setdefault(module, Seen())
        for tensor in _tensors(given):
            seen.input_shapes.append(tensor.shape)
            seen.sources.append(self.read_by(module, tensor))

    def leave(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if self.depth == 1:  # still inside, where questions are nobody's reading
            given = _tensors((args, kwargs))
            self._inputs += [(module, tensor, version_of(tensor)) for tensor in given]
        self.depth -= 1
        if self.depth == 0:
            self.made_by(module, out)

    def passes(self, container: nn.Module, *given: Any) -> None:
        for tensor in _tensors(given):
            maker = self._makers.get(id(tensor))
            if maker is not None:
                self.seen[maker].containers.append(container)

    def end(self, out: Any) -> None:
        for tensor in _tensors(out):
            self.read_by(OUTPUT, tensor)
        for module, tensor, version in self._inputs:
            self.seen[module].is_overwritten |= version_of(tensor) != version


def record(
    network: nn.Module, modules: Iterable[nn.Module], example: Tensor
) -> dict[nn.Module, Seen]:
    """What was seen of each of `modules` in one run, in the order of their first calls."""
    recording, interesting = _Recording(), set(modules)
    handles = []
    for module in network.modules():
        before: Callable[..., None] = recording.passes
        after: Callable[..., None] = recording.passes
        if module in interesting:
            before, after = recording.enter, recording.leave
        elif isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        with undisturbed(network), _Functions(recording):
            out = network(example)
        recording.end(out)
    finally:
        for handle in handles:
            handle.remove()
    return recording.seen


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; modes and random numbers afterwards as before."""
    modes = {module: module.training for module in network.modules()}
    try:
        for module in modes:  # not by `eval()`, which networks overload to change more than that
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _uncompiled():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _uncompiled() -> AbstractContextManager[object]:
    """Parts of the network that are compiled run as they are written."""
    if "torch._dynamo" not in sys.modules:  # there are none, and importing it takes long
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _fit(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
