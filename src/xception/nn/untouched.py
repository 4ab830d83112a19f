"""Whether a module is still what it was built as, so that a fused path may take its place."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as module_globals


def is_untouched(module: nn.Module, *types: type[nn.Module]) -> bool:
    """True when it is of exactly one of `types` (if given), and nobody hooked or patched it."""
    if types and type(module) not in types:
        return False
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module_globals._global_forward_hooks
        or module_globals._global_forward_pre_hooks
        or module_globals._global_backward_hooks
        or module_globals._global_backward_pre_hooks
    )
