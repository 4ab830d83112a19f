"""Pickles are read as data: what Python writes comes back, and a cut one is noticed."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xception.weights.files.pickle_reader import Pickle, read_pickle
from xception.weights.files.pickle_values import Made, Name, Persistent, elements_of, pairs_of

Read = Callable[[bytes], Pickle]
Refusal = Callable[..., str]

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


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


VALUES = [
    *(None, True, False, 0, 1, -1, 255, 256, 65_535, 65_536, -(2**31), 2**31, 2**63, -(2**100)),
    *(0.0, -1.5, 1e300, "", "text", "\u00e4\u4e2d\U0001f600\n'\\", "x" * 300, b"", b"\x00\xff'"),
    *([], (), {}, [1], (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": 1}, {1: [2], (3, "b"): None}),
    *(set(), {1, 2}, frozenset({3}), bytearray(b"ab"), collections.OrderedDict(a=1, b=2)),
    [[], [[]], {"a": {"b": ({"c"},)}}],
    list(range(3000)),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values_of_every_protocol(pickle_contents: Read, protocol: int) -> None:
    for value in VALUES:
        content = pickle.dumps(value, protocol)
        result = pickle_contents(content + b"what follows")
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
def test_any_nested_values(pickle_contents: Read, value: Any, protocol: int) -> None:
    assert plain(pickle_contents(pickle.dumps(value, protocol)).value) == value


def test_python_2_texts(pickle_contents: Read) -> None:
    """Python 2's str is text where it is UTF-8, its OrderedDict has its pairs as lists."""
    assert pickle_contents(b"S'a\\n\\xc3\\xa4'\n.").value == "a\n\u00e4"
    assert pickle_contents(b"U\x02\xff\xfe.").value == b"\xff\xfe"
    assert pickle_contents(b"T\x03\x00\x00\x00abc.").value == "abc"
    ordered = b"ccollections\nOrderedDict\n(((S'a'\nI1\nl(S'b'\nI2\nlltR."
    assert plain(pickle_contents(ordered).value) == {"a": 1, "b": 2}


def test_shared_values_stay_shared(pickle_contents: Read) -> None:
    inner = [1]
    first, second = pickle_contents(pickle.dumps([inner, inner])).value
    assert first is second


def test_classes_and_their_state_become_records(pickle_contents: Read) -> None:
    class_source = types.ModuleType("a_module_that_is_gone")
    exec("class Thing:\n    pass", class_source.__dict__)
    sys.modules["a_module_that_is_gone"] = class_source
    thing = class_source.Thing()
    thing.size = 3
    written = [pickle.dumps(thing, protocol) for protocol in PROTOCOLS]
    del sys.modules["a_module_that_is_gone"]
    for content in written:
        made = pickle_contents(content).value
        assert isinstance(made, Made)
        assert plain(made.state) == {"size": 3}
        names = [made.function, *made.arguments]
        assert "a_module_that_is_gone.Thing" in [str(n) for n in names if isinstance(n, Name)]
    assert "a_module_that_is_gone" not in sys.modules


def test_references_to_the_outside(pickle_contents: Read) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", "0") if value is outside else None

    outside = object()
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump([outside, outside])
    result = pickle_contents(buffer.getvalue())
    assert [reference.identity for reference in result.persistent] == [("storage", "0")] * 2
    assert all(isinstance(value, Persistent) for value in result.value)
    assert pickle_contents(b"P12 ab\n.").value.identity == "12 ab"


def test_every_instruction_is_known_but_those_for_registries_and_separate_buffers(
    pickle_contents: Read,
) -> None:
    def outcome(content: bytes) -> str:
        try:
            pickle_contents(content)
        except ValueError as error:
            return str(error)
        return ""

    codes = {operation.name: operation.code.encode("latin-1") for operation in pickletools.opcodes}
    unknown = [
        name
        for name, code in codes.items()
        if f"instruction {code!r} is unknown" in outcome(code + bytes(16))
    ]
    assert unknown == ["NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_noticed(pickle_refusal: Refusal, protocol: int) -> None:
    content = pickle.dumps([v for v in VALUES if v != VALUES[-1]], protocol)
    for length in range(0, len(content), 3):
        assert "cut short" in pickle_refusal(content[:length])


def test_no_more_than_is_available_is_read() -> None:
    content = pickle.dumps("x" * 100)
    with pytest.raises(ValueError, match="cut short"):
        read_pickle(io.BytesIO(content), len(content) - 1)
    with pytest.raises(ValueError, match="cut short"):
        read_pickle(io.BytesIO(content[:-5]), len(content))
