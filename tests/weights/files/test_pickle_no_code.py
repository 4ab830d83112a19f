"""Nothing that a pickle says is done: no call, no import, no method of a class."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from xception.weights.files.pickle_reader import Pickle

Read = Callable[[bytes], Pickle]


def hostile(command: str) -> dict[str, bytes]:
    """Pickles, by what they call `os.system(command)` with."""
    text = command.encode()
    system = f"c{os.system.__module__}\nsystem\n".encode()
    call = system + b"(V" + text + b"\ntR"
    thing = b"cmodule\nThing\n)R"
    return {
        "reduce": call + b".",
        "protocol 4": b"\x80\x04" + _short(os.system.__module__) + _short("system") + b"\x93"
        + _short(command) + b"\x85R.",
        "inst": b"(V" + text + f"\ni{os.system.__module__}\nsystem\n.".encode(),
        "obj": b"(" + system + b"V" + text + b"\no.",
        "newobj": system + b"V" + text + b"\n\x85\x81.",
        "newobj_ex": system + b"V" + text + b"\n\x85}\x92.",
        "nested": b"}V0\n(" + call + b"ls.",
        "as a key": b"}" + call + b"NsN0.",
        "persistent id": call + b"Q.",
        "state": thing + call + b"b.",
        "item": thing + call + b"a.",
        "pair": thing + b"N" + call + b"s.",
        "discarded": call + b"0N.",
        "eval": b"cbuiltins\neval\n(V__import__('os').system('" + text + b"')\ntR.",
        "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR(V" + text + b"\ntR.",
        "partial": b"cfunctools\npartial\n(" + system + b"V" + text + b"\ntR)R.",
    }  # fmt: skip


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


CALLED_BY_PYTHON = {
    *("reduce", "protocol 4", "inst", "obj", "nested", "as a key", "discarded", "eval", "getattr"),
}


@pytest.mark.parametrize("how", list(hostile("")))
def test_no_code_runs(pickle_contents: Read, how: str, tmp_path: Path) -> None:
    """Python's own reader proves that the pickle is live: it makes the file, ours never does."""
    witness = tmp_path / "ran"
    content = hostile(f"touch {witness}")[how]
    pickle_contents(b"Vtext\n.")  # at the first text, Python loads the codec
    modules = set(sys.modules)
    pickle_contents(content)
    assert not witness.exists() and set(sys.modules) == modules
    if how in CALLED_BY_PYTHON:
        pickle.loads(content)
        assert witness.exists()


def test_a_state_runs_no_setstate(pickle_contents: Read, tmp_path: Path) -> None:
    module = types.ModuleType("a_module_with_a_trap")
    exec(
        "class Trap:\n"
        "    def __setstate__(self, state):\n"
        "        open(state['path'], 'w').close()\n"
        "    def __init__(self, path):\n"
        "        self.path = path\n",
        module.__dict__,
    )
    sys.modules["a_module_with_a_trap"] = module
    try:
        witness = tmp_path / "ran"
        content = pickle.dumps(module.Trap(str(witness)))
        pickle_contents(content)
        assert not witness.exists()
        pickle.loads(content)
        assert witness.exists()
    finally:
        del sys.modules["a_module_with_a_trap"]


def test_names_are_not_imported(pickle_contents: Read) -> None:
    assert "antigravity" not in sys.modules
    made = pickle_contents(b"cantigravity\nfly\n(tR.").value
    assert str(made.function) == "antigravity.fly" and "antigravity" not in sys.modules
