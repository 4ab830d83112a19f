"""The packages that exporting and other runtimes need: an extra of this one."""

from __future__ import annotations

from importlib.util import find_spec

from xception.errors import XceptionError

EXTRA = 'pip install "xception[export]"'


def is_installed(package: str) -> bool:
    """Whether `package` could be imported; it is not imported."""
    return find_spec(package) is not None


def require(purpose: str, *packages: str) -> None:
    """Raise XceptionError, which says what `purpose` needs, unless all packages are installed."""
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        *first, last = missing
        named = f"{', '.join(first)} and {last}" if first else last
        raise XceptionError(f"{purpose} needs {named}: {EXTRA}")
