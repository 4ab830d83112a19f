"""Whether a module still computes what its class says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_globals
from torch.nn.utils import parametrizations, prune

from xception.nn import is_untouched


def test_types_are_exact() -> None:
    """A subclass may compute anything."""

    class Own(nn.Conv2d):
        pass

    assert is_untouched(nn.ReLU()) and is_untouched(nn.ReLU(), nn.Identity, nn.ReLU)
    assert not is_untouched(nn.ReLU(), nn.Identity)
    assert is_untouched(Own(1, 1, 1)) and not is_untouched(Own(1, 1, 1), nn.Conv2d)


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m.register_forward_hook(lambda *_: None),
    "forward, always called": lambda m: m.register_forward_hook(lambda *_: None, always_call=True),
    "before forward": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "backward": lambda m: m.register_full_backward_hook(lambda *_: None),
    "before backward": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_until_they_are_removed(kind: str) -> None:
    module = nn.Conv2d(2, 2, 1)
    handle = HOOKS[kind](module)
    assert not is_untouched(module, nn.Conv2d)
    handle.remove()
    assert is_untouched(module, nn.Conv2d)


GLOBAL_HOOKS = [
    module_globals.register_module_forward_hook,
    module_globals.register_module_forward_pre_hook,
    module_globals.register_module_full_backward_hook,
    module_globals.register_module_full_backward_pre_hook,
]


@contextmanager
def globally(register: Callable[..., Any]) -> Iterator[None]:
    handle = register(lambda *_: None)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("register", GLOBAL_HOOKS, ids=lambda r: r.__name__)
def test_hooks_on_every_module(register: Callable[..., Any]) -> None:
    module = nn.ReLU()
    with globally(register):
        assert not is_untouched(module)
    assert is_untouched(module)


def test_a_forward_of_its_own() -> None:
    module = nn.ReLU()
    module.forward = torch.sigmoid  # type: ignore[method-assign]
    assert not is_untouched(module)


@pytest.mark.parametrize("change", [
    parametrizations.weight_norm, parametrizations.spectral_norm,
    lambda m: prune.l1_unstructured(m, "weight", 0.5),
], ids=["weight_norm", "spectral_norm", "pruning"])  # fmt: skip
def test_weights_that_are_computed(change: Callable[[nn.Module], Any]) -> None:
    module = nn.Conv2d(2, 2, 1)
    change(module)
    assert not is_untouched(module, nn.Conv2d)


def test_what_does_not_change_the_forward() -> None:
    """Its place in a network, its mode, its weights' values and hooks of its state dict."""
    module = nn.Conv2d(2, 2, 1).eval().requires_grad_(False)
    nn.Sequential(module)
    module.register_state_dict_post_hook(lambda *_: None)
    with torch.no_grad():
        module.weight.zero_()
    assert is_untouched(module, nn.Conv2d)
