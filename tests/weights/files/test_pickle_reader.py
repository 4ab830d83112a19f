"""Pickles are read as data: what Python writes comes back, and nothing that one says is done."""

from __future__ import annotations

import collections
import gc
import io
import os
import pickle
import pickletools
import struct
import sys
import tracemalloc
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xception.weights.files import pickle_reader
from xception.weights.files.pickle_bytes import MAX_PICKLE_BYTES, MAX_TEXT_BYTES
from xception.weights.files.pickle_reader import MAX_OBJECT_BYTES, Pickle, read_pickle
from xception.weights.files.pickle_values import (
    Made,
    Name,
    Pairs,
    Persistent,
    elements_of,
    pairs_of,
)

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(content: bytes) -> Pickle:
    return read_pickle(io.BytesIO(content), len(content))


def refused(content: bytes, object_bytes: int = MAX_OBJECT_BYTES) -> str:
    with pytest.raises(ValueError) as caught:
        read_pickle(io.BytesIO(content), len(content), object_bytes)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


def plain(value: Any) -> Any:
    """The Python object that the records stand for, of the kinds that the tests make."""
    pairs = pairs_of(value)
    if pairs is not None:
        return {plain(key): plain(item) for key, item in pairs}
    if isinstance(value, Made) and isinstance(value.function, Name):
        if value.function.name in ("set", "frozenset"):
            return {plain(item) for item in elements_of(value)}
        if value.function.name == "encode":  # how bytes are written before protocol 3
            return value.arguments[0].encode("latin-1")
        if value.function.name == "bytes":
            return b""
        if value.function.name == "bytearray":
            return plain(value.arguments[0]) if value.arguments else b""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value


# ---------------------------------------------------------------- what Python writes


VALUES = [
    *(None, True, False, 0, 1, -1, 255, 256, 65_535, 65_536, -(2**31), 2**31, 2**63, -(2**100)),
    *(0.0, -1.5, 1e300, "", "text", "\u00e4\u4e2d\U0001f600\n'\\", "x" * 300, b"", b"\x00\xff'"),
    *([], (), {}, [1], (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": 1}, {1: [2], (3, "b"): None}),
    *(set(), {1, 2}, frozenset({3}), bytearray(b"ab"), collections.OrderedDict(a=1, b=2)),
    [[], [[]], {"a": {"b": ({"c"},)}}],
    list(range(3000)),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values_of_every_protocol(protocol: int) -> None:
    for value in VALUES:
        content = pickle.dumps(value, protocol)
        result = read(content + b"what follows")
        found = plain(result.value)
        assert found == value and type(found) in (type(value), dict, set, bytes)
        assert result.bytes_read == len(content)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=30,
    ),
    st.sampled_from(PROTOCOLS[1:]),  # protocol 0 has texts of a line, whose length is bounded
)
@settings(max_examples=60, deadline=None)
def test_any_nested_values(value: Any, protocol: int) -> None:
    assert plain(read(pickle.dumps(value, protocol)).value) == value


def test_python_2_texts() -> None:
    """Python 2's str is text where it is UTF-8, its OrderedDict has its pairs as lists."""
    assert read(b"S'a\\n\\xc3\\xa4'\n.").value == "a\n\u00e4"
    assert read(b"U\x02\xff\xfe.").value == b"\xff\xfe"
    assert read(b"T\x03\x00\x00\x00abc.").value == "abc"
    ordered = b"ccollections\nOrderedDict\n(((S'a'\nI1\nl(S'b'\nI2\nlltR."
    assert plain(read(ordered).value) == {"a": 1, "b": 2}


def test_shared_values_stay_shared() -> None:
    inner = [1]
    first, second = read(pickle.dumps([inner, inner])).value
    assert first is second


def test_classes_and_their_state_become_records() -> None:
    class_source = types.ModuleType("a_module_that_is_gone")
    exec("class Thing:\n    pass", class_source.__dict__)
    sys.modules["a_module_that_is_gone"] = class_source
    thing = class_source.Thing()
    thing.size = 3
    written = [pickle.dumps(thing, protocol) for protocol in PROTOCOLS]
    del sys.modules["a_module_that_is_gone"]
    for content in written:
        made = read(content).value
        assert isinstance(made, Made)
        assert plain(made.state) == {"size": 3}
        names = [made.function, *made.arguments]
        assert "a_module_that_is_gone.Thing" in [str(n) for n in names if isinstance(n, Name)]
    assert "a_module_that_is_gone" not in sys.modules


def test_references_to_the_outside() -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", "0") if value is outside else None

    outside = object()
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump([outside, outside])
    result = read(buffer.getvalue())
    assert [reference.identity for reference in result.persistent] == [("storage", "0")] * 2
    assert all(isinstance(value, Persistent) for value in result.value)
    assert read(b"P12 ab\n.").value.identity == "12 ab"


def test_every_instruction_is_known_but_those_for_registries_and_separate_buffers() -> None:
    codes = {operation.name: operation.code.encode("latin-1") for operation in pickletools.opcodes}
    unknown = [
        name
        for name, code in codes.items()
        if f"instruction {code!r} is unknown" in _outcome(code + bytes(16))
    ]
    assert unknown == ["NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"]


def _outcome(content: bytes) -> str:
    try:
        read(content)
    except ValueError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- nothing runs


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
def test_no_code_runs(how: str, tmp_path: Path) -> None:
    """Python's own reader proves that the pickle is live: it makes the file, ours never does."""
    witness = tmp_path / "ran"
    content = hostile(f"touch {witness}")[how]
    modules = set(sys.modules)
    read(content)
    assert not witness.exists() and set(sys.modules) == modules
    if how in CALLED_BY_PYTHON:
        pickle.loads(content)
        assert witness.exists()


def test_a_state_runs_no_setstate(tmp_path: Path) -> None:
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
        read(content)
        assert not witness.exists()
        pickle.loads(content)
        assert witness.exists()
    finally:
        del sys.modules["a_module_with_a_trap"]


def test_names_are_not_imported() -> None:
    assert "antigravity" not in sys.modules
    made = read(b"cantigravity\nfly\n(tR.").value
    assert str(made.function) == "antigravity.fly" and "antigravity" not in sys.modules


# ---------------------------------------------------------------- what is claimed or cut


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"B" + struct.pack("<L", 2**32 - 1), "cut short"),
        (b"\x8e" + struct.pack("<Q", 2**32), "cut short"),
        (b"\x8e" + struct.pack("<Q", 2**63), "cut short"),
        (b"\x8d" + struct.pack("<Q", 2**64 - 1), "cut short"),
        (b"\x96" + struct.pack("<Q", 2**40), "cut short"),
        (b"X" + struct.pack("<L", 2**32 - 1) + b"x", "cut short"),
        (b"T" + struct.pack("<L", 2**32 - 1), "cut short"),
        (b"X" + struct.pack("<L", MAX_TEXT_BYTES + 1) + bytes(MAX_TEXT_BYTES + 2), "one value"),
        (b"\x8b" + struct.pack("<L", 2**31), "cut short"),
        (b"\x8b" + struct.pack("<L", 5000) + bytes(6000), "5,000 bytes, more than the 256"),
        (b"L" + b"9" * 5000 + b"L\n.", "longer than 1,024"),
        (b"L" + b"9" * 900 + b"x\n.", "not written in digits"),
        (b"I1.5\n.", "not written in digits"),
        (b"Fone\n.", "not written in digits"),
        (b"Sabc\n.", "between quotes"),
        (b"S'abc\\x'\n.", "between quotes"),
        (b"X\x02\x00\x00\x00\xff\xfe.", "no UTF-8"),
        (b"\x95" + struct.pack("<Q", 2**32) + b"N.", "frame"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\xffN.", "unknown"),
        (b"\x82\x01N.", "unknown"),
        (b"Nr" + struct.pack("<L", 2**31) + b".", "remembered as number 2,147,483,648"),
        (b"Np99999999999999\n.", "remembered as number"),
        (b"Np-1\n.", "remembered as number -1"),
        (b"h\x00.", "never remembered"),
        (b"j" + struct.pack("<L", 2**32 - 1) + b".", "never remembered"),
        (b".", "not there"),
        (b"(.", "not there"),
        (b"0.", "not there"),
        (b"q\x00.", "not there"),
        (b"2.", "not there"),
        (b"1.", "mark that is not there"),
        (b"NNt.", "mark that is not there"),
        (b"(N\x86.", "not there"),
        (b"}(Nu.", "name without a value"),
        (b"N(NNu.", "no mapping"),
        (b"N(Ne.", "no list"),
        (b")Na.", "no list"),
        (b"NNb.", "has none"),
        (b"cos\nsystem\nNb.", "has none"),
        (b"NNR.", "no arguments"),
        (b"NNN\x92.", "no arguments"),
        (b"(o.", "no class"),
        (b"NN\x93.", "name is no text"),
        (b"c" + b"m" * 2000 + b"\nx\n.", "longer than 1,024"),
        (b"\x8c\x01mX\xff\x04\x00\x00" + b"n" * 1279 + b"\x93.", "longer than 1,024"),
    ],
)  # fmt: skip
def test_claims_and_contradictions(content: bytes, finding: str) -> None:
    tracemalloc.start()
    assert finding in refused(content)
    assert tracemalloc.get_traced_memory()[1] < 2**20 + 8 * len(content)
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_noticed(protocol: int) -> None:
    content = pickle.dumps([v for v in VALUES if v != VALUES[-1]], protocol)
    for length in range(0, len(content), 3):
        assert "cut short" in refused(content[:length])


def test_no_more_than_is_available_is_read() -> None:
    content = pickle.dumps("x" * 100)
    with pytest.raises(ValueError, match="cut short"):
        read_pickle(io.BytesIO(content), len(content) - 1)
    with pytest.raises(ValueError, match="cut short"):
        read_pickle(io.BytesIO(content[:-5]), len(content))


@pytest.mark.parametrize(
    ("piece", "finding"),
    [
        (b"]", "objects take more than"),
        (b"}", "objects take more than"),
        (b")\x85", "objects take more than"),
        (b"\x8f", "objects take more than"),
        (b"ca\nb\n", "objects take more than"),
        (b"ca\nb\n)R", "objects take more than"),
        (b"NQ", "objects take more than"),
        (b"\x8a\x08abcdefgh", "objects take more than"),
        (b"N\x94", "objects take more than"),
        (b"](NNe", "objects take more than"),
        (b"}(NNu", "objects take more than"),
        (b"ca\nb\n)R(NNuNa", "objects take more than"),
        (b"X\x04\x00\x00\x00\xf0\x9f\x98\x80", "objects take more than"),
        (b"(", "instructions"),
        (b"N0", "instructions"),
        (b"N2", "instructions"),
    ],
)
def test_memory_of_long_pickles_is_bounded(
    piece: bytes, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_reader, "MAX_INSTRUCTIONS", 100_000)
    content = piece * (MAX_PICKLE_BYTES // len(piece))
    gc.collect()
    tracemalloc.start()
    assert finding in refused(content, object_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * 1.3


def test_a_wide_text_is_bounded() -> None:
    text = "\U0001f600" + "x" * (MAX_TEXT_BYTES - 4)  # one wide character makes all of them wide
    content = (b"X" + struct.pack("<L", MAX_TEXT_BYTES) + text.encode()) * 2
    tracemalloc.start()
    assert "objects take more than" in refused(content, object_bytes=6 * MAX_TEXT_BYTES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 11 * MAX_TEXT_BYTES  # two wide texts, their bytes, and one being made


def test_a_pickle_without_an_end() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return (b"X" + struct.pack("<L", size - 5) + bytes(size))[:size] if size > 5 else b"N"

    with pytest.raises(ValueError, match="more than"):
        read_pickle(Endless(), 2**40)  # type: ignore[arg-type]


# ---------------------------------------------------------------- depth and cycles


@pytest.mark.parametrize(
    "nested",
    [
        b"N" + b"\x85" * 300_000 + b".",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"}" + b"N}" * 60_000 + b"s" * 60_000 + b".",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"ca\nb\n" + b")R" * 100_000 + b".",
        b"N" + b"Q" * 100_000 + b".",
        b"ca\nb\n)R" + b"ca\nb\n)R" * 40_000 + b"b" * 40_000 + b".",
    ],
)
def test_depth_neither_overflows_nor_crashes(nested: bytes) -> None:
    """Neither while it is read nor when it is freed; the interpreter would die, not raise."""
    result = read(nested)
    del result
    gc.collect()


def test_cycles() -> None:
    holds_itself = read(b"]q\x00h\x00a.").value
    assert isinstance(holds_itself, list) and holds_itself[0] is holds_itself
    mapping = read(b"}q\x00Nh\x00s.").value
    assert isinstance(mapping, Pairs) and mapping.pairs[0][1] is mapping
    made = read(b"ca\nb\n)Rq\x00h\x00b.").value
    assert made.state is made


def test_keys_are_never_hashed_or_compared() -> None:
    """Integers that Python's dictionaries put in one place would take hours to insert."""
    same = [(1 + k * (2**61 - 1)) for k in range(60_000)]
    assert len({hash(number) for number in same[:100]}) == 1
    content = b"}(" + b"".join(b"\x8a\x0a" + k.to_bytes(10, "little") + b"N" for k in same) + b"u."
    assert len(pairs_of(read(content).value) or ()) == 60_000
    deep = b"}(" + b"N" + b"\x85" * 100_000 + b"Nu."  # hashing it would overflow the C stack
    assert len(pairs_of(read(deep).value) or ()) == 1
