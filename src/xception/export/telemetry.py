"""Importing tools that report their use to their makers, so that they do not.

ONNX Runtime (from 1.29 on, on Linux too) sends digests of the models that it loads and facts about
the machine, and keeps an identifier of it; NNCF sends what it is called for. Whoever runs pictures
through a network has not asked for that. A program that imports them itself decides for itself.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SWITCHES = ("ORT_DISABLE_TELEMETRY", "NNCF_CI")  # each is asked for once, while importing


def import_without_telemetry(package: str) -> Any:
    """The module `package`; the environment is as before afterwards."""
    with _switched_off():
        return importlib.import_module(package)


@contextmanager
def _switched_off() -> Iterator[None]:
    missing = [switch for switch in _SWITCHES if switch not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for switch in missing:
            del os.environ[switch]
