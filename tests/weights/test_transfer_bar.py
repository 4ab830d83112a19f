"""The bar is for people who look on."""

from __future__ import annotations

import io

from rich.console import Console

from xception.weights.transfer_bar import transfer_bar


def test_a_terminal_sees_name_and_bytes():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with transfer_bar("[xception].h5", console) as progress:
        progress(1_000_000, 4_000_000)
    assert "[xception].h5" in file.getvalue() and "1.0/4.0 MB" in file.getvalue()


def test_a_log_file_sees_nothing():
    file = io.StringIO()
    with transfer_bar("xception.h5", Console(file=file)) as progress:
        progress(1, None)
    assert file.getvalue() == ""
