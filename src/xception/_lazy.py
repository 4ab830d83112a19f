"""Public names of a package, imported when first used (PEP 562), so that starting stays quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, names_by_module: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for `package`.

    `names_by_module` maps a submodule's name to the public names it defines.
    """
    module_of = {name: module for module, names in names_by_module.items() for name in names}
    public = sorted(module_of)

    def __getattr__(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)  # later look-ups do not come here again
        return value

    def __dir__() -> list[str]:
        return public

    return __getattr__, __dir__, public
