"""Compiled HLO as data: the text that XLA gives of a program, read into computations of instructions.

Only what counting needs is read: names, types, operands and attributes. XLA's own text is the one form in which every
backend shows what it will run, whichever fusions, copies and collectives it made; its Python objects do not show loops.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BEGINS = re.compile(r"\s+(?:ROOT )?%?[\w.\-]+ = ")
_ENDS = re.compile(r"\}(, execution_thread=\S+)?\s*$")  # and not "}}, metadata=...", where attributes of a kernel go on
_TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclass(frozen=True)
class Array:
    """One array of a type. `space` is 0 for the device's main memory, and another number for what lies nearer or farther."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Without the padding of tiles."""
        bits = _BITS.get(self.dtype) or (0 if self.dtype in _BITS else int(re.search(r"\d+", self.dtype)[0]))
        count = 1
        for size in self.shape:
            count *= size
        return -(-count * bits // 8)


@dataclass(frozen=True)
class Instruction:
    """`name = types opcode(operands), attributes`; a tuple's types are its leaves, in order."""

    name: str
    types: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    literal: str
    is_root: bool

    @cached_property
    def called(self) -> dict[str, str]:
        """Attribute -> computation that the instruction runs."""
        found = dict(_CALLED.findall(self.attributes))
        if branches := _BRANCHES.search(self.attributes):
            found |= {f"branch {index}": name for index, name in enumerate(_NAME.findall(branches[1]))}
        return found


@dataclass
class Computation:
    """Instructions in order; `parameters` in the order of their numbers."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The one whose value is the computation's."""
        return next(one for one in self.instructions.values() if one.is_root)

    @cached_property
    def parameters(self) -> list[Instruction]:
        """By their numbers."""
        found = [one for one in self.instructions.values() if one.opcode == "parameter"]
        return sorted(found, key=lambda one: int(one.literal))

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name -> instructions that take it."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for one in self.instructions.values():
            for name in one.operands:
                found.setdefault(name, []).append(one)
        return found


@dataclass(frozen=True)
class Program:
    """The computations of a module, by name, and the entry's."""

    computations: dict[str, Computation]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """How often a `while` goes round: as XLA knows it, or as its condition says (a counter from 0, less than a number).

        None where neither says: the loop's length depends on data.
        """
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        condition = self.computations[loop.called["condition"]]
        constants = {one.name: one.literal for one in condition.instructions.values() if one.opcode == "constant"}
        root = condition.root
        if root.opcode == "fusion" and len(root.operands) == 2:  # a comparison of the two, fused
            inner = self.computations[root.called["calls"]].root
            comparison, bounds = inner.attributes, root.operands
        else:
            comparison, bounds = root.attributes, root.operands
        found = [constants[name] for name in bounds if name in constants]
        return int(found[0]) if "direction=LT" in comparison and len(found) == 1 else None


def parse(text: str) -> Program:
    """A module as `compiled.as_text()` gives it."""
    computations: dict[str, Computation] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if current is None:
            if header := _HEADER.match(line):
                current = computations[header[2]] = Computation(header[2])
                entry = header[2] if header[1] else entry
        elif _ENDS.match(line):
            current = None
        elif _BEGINS.match(line):
            one = _instruction(line)
            current.instructions[one.name] = one
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    left, _, rest = line.strip().partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    types = tuple(_array(*found) for found in _ARRAY.findall(rest[:end]))
    return Instruction(
        left.removeprefix("ROOT ").lstrip("%"),
        types,
        rest[end:opening].strip(),
        tuple(_NAME.findall(inside)),
        rest[closing + 1 :],
        inside,
        left.startswith("ROOT "),
    )


def _array(dtype: str, shape: str, layout: str) -> Array:
    space = _SPACE.search(layout)
    return Array(dtype, tuple(int(size) for size in shape.split(",") if size), int(space[1]) if space else 0)


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens there closes."""
    depth = 0
    for place in range(opening, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place
    raise ValueError(f"HLO with an open parenthesis: {text[:200]}")
