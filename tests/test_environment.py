from __future__ import annotations

import importlib.metadata

from xception import __version__, environment
from xception.environment import cpu_name, describe_environment


def test_versions_and_machine():
    described = describe_environment()
    assert described["xception"] == __version__
    assert described["numpy"] == importlib.metadata.version("numpy")
    assert described["torch"].startswith(importlib.metadata.version("torch").partition("+")[0])
    assert int(described["threads"]) >= 1
    assert all(described.values())


def test_a_missing_package_is_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    assert describe_environment()["no-such-package"] == "missing"


def test_the_processor_has_a_name():
    assert cpu_name()
