"""Python pickles read as data: nothing is imported, nothing is called, whatever they say.

A pickle is a program for a small stack machine, and some of its instructions fetch and call any
function. This machine does neither: a function or class becomes a `Name`, and what a call would
have returned becomes a `Made`, which remembers name, arguments and state. Who knows a name (that of
torch's tensor rebuilding, say) computes its result from that record by code of its own.

Source of the format: https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from xception.weights.files.pickle_bytes import (
    MAX_LINE_BYTES,
    MAX_PICKLE_BYTES,
    PickleBytes,
    damaged,
)
from xception.weights.files.pickle_values import Made, Name, Pairs, Persistent

MAX_INSTRUCTIONS = 2_000_000
MAX_OBJECT_BYTES = 32 * 2**20  # of all objects that a pickle makes
MAX_PROTOCOL = 5

_MARK: Final = object()
_SET: Final = Name("builtins", "set")
_SLOT_BYTES = 10  # of a reference in a list, which is given some more room than it needs
_MEMO_BYTES = 128  # of a place in the memo with its number
_PAIR_BYTES = 88
_LIST_BYTES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Pickle:
    """The object of a pickle, all its references to the outside, and its length in bytes."""

    value: Any
    persistent: list[Persistent]
    bytes_read: int


def read_pickle(file: BinaryIO, available: int, object_bytes: int = MAX_OBJECT_BYTES) -> Pickle:
    """Read the pickle that begins at the file's position.

    file: is left after the pickle's last byte
    available: bytes that are there to read
    object_bytes: that its objects may take in memory

    Raises ValueError that says what is wrong.
    """
    return _Machine(PickleBytes(file, available), object_bytes).run()


class _Machine:
    """The stack, the memo, and an account of the memory that they take."""

    def __init__(self, source: PickleBytes, object_bytes: int) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.persistent: list[Persistent] = []
        self.object_bytes = 0
        self.most_object_bytes = object_bytes

    def run(self) -> Pickle:
        take, instructions = self.source.take, _INSTRUCTIONS
        for _ in range(MAX_INSTRUCTIONS):
            opcode = take(1)
            if opcode == b".":
                return Pickle(self.pop(), self.persistent, self.source.read_bytes)
            instruction = instructions.get(opcode)
            if instruction is None:
                damaged(f"instruction {opcode!r} is unknown")
            instruction(self)
        damaged(f"there are more than {MAX_INSTRUCTIONS:,} instructions")

    def charge(self, count: int) -> None:
        self.object_bytes += count
        if self.object_bytes > self.most_object_bytes:
            raise ValueError(
                f"holds a pickle whose objects take more than {self.most_object_bytes:,} bytes; "
                "it is damaged or no model file"
            )

    def push(self, value: Any) -> None:
        self.charge(_SLOT_BYTES + sys.getsizeof(value))
        self.stack.append(value)

    def push_again(self, value: Any) -> None:
        """Push a value whose own memory is accounted for."""
        self.charge(_SLOT_BYTES)
        self.stack.append(value)

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            damaged("a value is taken that is not there")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        del self.stack[-1]
        return value

    def discard(self) -> None:
        if not self.stack:
            damaged("a value is taken that is not there")
        del self.stack[-1]

    def discard_to_mark(self) -> None:
        self.pop_to_mark()

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                values = stack[index + 1 :]
                del stack[index:]
                return values
        damaged("values are taken from a mark that is not there")

    def remember(self, index: int) -> None:
        if not 0 <= index < MAX_INSTRUCTIONS:  # every writer counts up from 0
            damaged(f"a value is remembered as number {index:,}")
        self.charge(_MEMO_BYTES)
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            damaged(f"value {index:,} is recalled, which was never remembered")
        self.push_again(self.memo[index])

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        self.charge(_LIST_BYTES + _SLOT_BYTES * len(values))
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Made):
            target.items = target.items or []
            target.items.extend(values)
        else:
            damaged("values are appended to what is no list")

    def set_pairs(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            damaged("a mapping has a name without a value")
        self.charge(_LIST_BYTES + _PAIR_BYTES * (len(values) // 2))
        pairs = zip(values[::2], values[1::2])
        if isinstance(target, Pairs):
            target.pairs.extend(pairs)
        elif isinstance(target, Made):
            target.pairs = target.pairs or []
            target.pairs.extend(pairs)
        else:
            damaged("pairs are set in what is no mapping")

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            damaged("a name is no text")
        if len(module) + len(name) > MAX_LINE_BYTES:
            damaged(f"a name is longer than {MAX_LINE_BYTES:,} characters")
        self.charge(sys.getsizeof(module) + sys.getsizeof(name))
        self.push(Name(module, name))

    def make(self, function: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            damaged("a call has no arguments")
        self.push(Made(function, arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if not isinstance(target, Made):
            damaged("a state is given to what has none")
        target.state = state

    def refer(self, identity: Any) -> None:
        reference = Persistent(identity)
        self.charge(_SLOT_BYTES)
        self.persistent.append(reference)
        self.push(reference)


_Instruction = Callable[[_Machine], None]


def _global(machine: _Machine) -> None:
    module = machine.source.text_line()
    machine.name(module, machine.source.text_line())


def _stack_global(machine: _Machine) -> None:
    name = machine.pop()
    machine.name(machine.pop(), name)


def _call(machine: _Machine) -> None:
    arguments = machine.pop()
    machine.make(machine.pop(), arguments)


def _call_with_keywords(machine: _Machine) -> None:
    machine.pop()  # the keywords: nothing that is read here depends on them
    _call(machine)


def _instance(machine: _Machine) -> None:
    arguments = tuple(machine.pop_to_mark())
    _global(machine)
    machine.make(machine.pop(), arguments)


def _object(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    if not values:
        damaged("an object has no class")
    machine.make(values[0], tuple(values[1:]))


def _set_item(machine: _Machine) -> None:
    value = machine.pop()
    key = machine.pop()
    machine.set_pairs([key, value])


def _empty_mapping(machine: _Machine) -> None:
    machine.charge(_LIST_BYTES)
    machine.push(Pairs([]))


def _mapping(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    _empty_mapping(machine)
    machine.set_pairs(values)


def _frozen_set(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    machine.push(Made(_SET, ()))
    machine.extend(values)


def _tuple(count: int) -> _Instruction:
    def make(machine: _Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return make


def _protocol(machine: _Machine) -> None:
    version = machine.source.number(1)
    if version > MAX_PROTOCOL:
        raise ValueError(
            f"is a pickle of protocol {version}, which is not known here; save it again with "
            "protocol 2, torch's default"
        )


def _frame(machine: _Machine) -> None:
    if machine.source.number(8) > MAX_PICKLE_BYTES:
        damaged("a frame is longer than a pickle may be")


def _value(read: Callable[[PickleBytes], Any]) -> _Instruction:
    return lambda machine: machine.push(read(machine.source))


def _constant(value: Any) -> _Instruction:
    return lambda machine: machine.push_again(value)


_INSTRUCTIONS: Final[dict[bytes, _Instruction]] = {
    # numbers and constants
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _value(PickleBytes.integer_line),
    b"L": _value(PickleBytes.integer_line),
    b"F": _value(PickleBytes.float_line),
    b"J": _value(lambda source: source.signed(4)),
    b"K": _value(lambda source: source.number(1)),
    b"M": _value(lambda source: source.number(2)),
    b"\x8a": _value(lambda source: source.long_integer(1)),
    b"\x8b": _value(lambda source: source.long_integer(4)),
    b"G": _value(lambda source: struct.unpack(">d", source.take(8))[0]),
    # texts and bytes
    b"S": _value(PickleBytes.python2_line),
    b"T": _value(lambda source: source.python2_text(4)),
    b"U": _value(lambda source: source.python2_text(1)),
    b"V": _value(PickleBytes.escaped_line),
    b"X": _value(lambda source: source.text(4)),
    b"\x8c": _value(lambda source: source.text(1)),
    b"\x8d": _value(lambda source: source.text(8)),
    b"B": _value(lambda source: source.data(4)),
    b"C": _value(lambda source: source.data(1)),
    b"\x8e": _value(lambda source: source.data(8)),
    b"\x96": _value(lambda source: source.data(8)),
    # lists, tuples, mappings, sets
    b"]": _value(lambda _: []),
    b")": _constant(()),
    b"}": _empty_mapping,
    b"\x8f": lambda machine: machine.push(Made(_SET, ())),
    b"\x91": _frozen_set,
    b"l": lambda machine: machine.push(machine.pop_to_mark()),
    b"t": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    b"d": _mapping,
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"a": lambda machine: machine.extend([machine.pop()]),
    b"e": lambda machine: machine.extend(machine.pop_to_mark()),
    b"\x90": lambda machine: machine.extend(machine.pop_to_mark()),
    b"s": _set_item,
    b"u": lambda machine: machine.set_pairs(machine.pop_to_mark()),
    # the stack and the memo
    b"(": lambda machine: machine.push_again(_MARK),
    b"0": _Machine.discard,
    b"1": _Machine.discard_to_mark,
    b"2": lambda machine: machine.push_again(machine.top()),
    b"p": lambda machine: machine.remember(machine.source.integer_line()),
    b"q": lambda machine: machine.remember(machine.source.number(1)),
    b"r": lambda machine: machine.remember(machine.source.number(4)),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"g": lambda machine: machine.recall(machine.source.integer_line()),
    b"h": lambda machine: machine.recall(machine.source.number(1)),
    b"j": lambda machine: machine.recall(machine.source.number(4)),
    # names, calls and states, of which nothing comes but records
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _call,
    b"\x81": _call,
    b"\x92": _call_with_keywords,
    b"i": _instance,
    b"o": _object,
    b"b": _Machine.build,
    b"P": lambda machine: machine.refer(machine.source.text_line()),
    b"Q": lambda machine: machine.refer(machine.pop()),
    # form
    b"\x80": _protocol,
    b"\x95": _frame,
}
