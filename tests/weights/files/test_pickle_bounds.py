"""What a pickle claims, contradicts, repeats or nests: one line, in bounded memory."""

from __future__ import annotations

import gc
import io
import struct
import tracemalloc
from collections.abc import Callable

import pytest

from xception.weights.files import pickle_reader
from xception.weights.files.pickle_bytes import MAX_PICKLE_BYTES, MAX_TEXT_BYTES
from xception.weights.files.pickle_reader import Pickle, read_pickle
from xception.weights.files.pickle_values import Pairs, pairs_of

Read = Callable[[bytes], Pickle]
Refusal = Callable[..., str]


# ---------------------------------------------------------------- what is claimed


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
def test_claims_and_contradictions(pickle_refusal: Refusal, content: bytes, finding: str) -> None:
    tracemalloc.start()
    assert finding in pickle_refusal(content)
    assert tracemalloc.get_traced_memory()[1] < 2**20 + 8 * len(content)
    tracemalloc.stop()


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
    pickle_refusal: Refusal, piece: bytes, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_reader, "MAX_INSTRUCTIONS", 100_000)
    content = piece * (MAX_PICKLE_BYTES // len(piece))
    gc.collect()
    tracemalloc.start()
    assert finding in pickle_refusal(content, object_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * 1.3


def test_a_wide_text_is_bounded(pickle_refusal: Refusal) -> None:
    text = "\U0001f600" + "x" * (MAX_TEXT_BYTES - 4)  # one wide character makes all of them wide
    content = (b"X" + struct.pack("<L", MAX_TEXT_BYTES) + text.encode()) * 2
    tracemalloc.start()
    assert "objects take more than" in pickle_refusal(content, object_bytes=6 * MAX_TEXT_BYTES)
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
def test_depth_neither_overflows_nor_crashes(pickle_contents: Read, nested: bytes) -> None:
    """Neither while it is read nor when it is freed; the interpreter would die, not raise."""
    result = pickle_contents(nested)
    del result
    gc.collect()


def test_cycles(pickle_contents: Read) -> None:
    holds_itself = pickle_contents(b"]q\x00h\x00a.").value
    assert isinstance(holds_itself, list) and holds_itself[0] is holds_itself
    mapping = pickle_contents(b"}q\x00Nh\x00s.").value
    assert isinstance(mapping, Pairs) and mapping.pairs[0][1] is mapping
    made = pickle_contents(b"ca\nb\n)Rq\x00h\x00b.").value
    assert made.state is made


def test_keys_are_never_hashed_or_compared(pickle_contents: Read) -> None:
    """Integers that Python's dictionaries put in one place would take hours to insert."""
    same = [(1 + k * (2**61 - 1)) for k in range(60_000)]
    assert len({hash(number) for number in same[:100]}) == 1
    content = b"}(" + b"".join(b"\x8a\x0a" + k.to_bytes(10, "little") + b"N" for k in same) + b"u."
    assert len(pairs_of(pickle_contents(content).value) or ()) == 60_000
    deep = b"}(" + b"N" + b"\x85" * 100_000 + b"Nu."  # hashing it would overflow the C stack
    assert len(pairs_of(pickle_contents(deep).value) or ()) == 1
