from __future__ import annotations

import sys

import pytest

from xception._lazy import attach


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A package with one module, of which a name is public."""
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from xception._lazy import attach\n"
        "__getattr__, __dir__, __all__ = attach(__name__, {'module': ['answer']})\n"
    )
    (folder / "module.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lazy_example

    yield lazy_example
    for name in ("lazy_example", "lazy_example.module"):
        sys.modules.pop(name, None)


def test_a_module_is_imported_when_its_name_is_used(package):
    assert "lazy_example.module" not in sys.modules
    assert package.answer == 42
    assert "lazy_example.module" in sys.modules
    assert vars(package)["answer"] == 42  # the next look-up is an ordinary one


def test_names_can_be_listed_without_importing(package):
    assert dir(package) == package.__all__ == ["answer"]
    assert "lazy_example.module" not in sys.modules


def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="'lazy_example' has no attribute 'question'"):
        package.question  # noqa: B018


def test_all_is_sorted():
    assert attach("p", {"a": ["z", "b"], "c": ["m"]})[2] == ["b", "m", "z"]
