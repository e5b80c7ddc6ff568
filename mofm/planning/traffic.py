"""How many bytes a compiled program moves between a device and its main memory, loops counted as often as they go round.

XLA's own `cost_analysis` counts the body of a loop once, and a model whose blocks are scanned is nearly all loop. Here every
instruction of the schedule reads its operands and writes its result, but for what moves nothing (tuples, views), or
moves a part (slices, updates in place, gathers), also within fusions. Arrays that XLA put into a TPU's on-chip memory
are not counted, copies from and to it are.

What this does not see: the padding of tiles, reads that a GPU's cache serves, and rows that a gather takes twice.
"""

from mofm.planning.collectives import KINDS, kind_of
from mofm.planning.hlo import Array, Computation, Instruction, Program

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("optimization-barrier", "add-dependency", "copy-done", "slice-done", "async-done", "async-update", "domain"),
    *("recv", "recv-done", "send", "send-done"),
}
"""What moves nothing itself."""
FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "AsyncCollectiveStart")
FREE_CALLS += ("AsyncCollectiveDone",)
"""Custom calls that only inform the compiler."""
VIEWS = ("bitcast", "reshape", "get-tuple-element", "convert", "copy", "transpose")
"""Within a fusion: the same elements, read where they are used."""
PARTS = ("dynamic-slice", "slice", "gather")
"""They read as much of their first operand as they give."""
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""They write into their first operand as much as this operand of theirs holds."""


def memory_traffic(program: Program) -> tuple[float, int]:
    """(bytes read and written in main memory by one device in one run, loops of unknown length, counted once)."""
    unknown: set[str] = set()
    return _run(program, program.computations[program.entry], unknown), len(unknown)


def _run(program: Program, computation: Computation, unknown: set[str]) -> float:
    """Of a computation that is scheduled: the entry, the body of a loop."""
    return sum(_cost(program, computation, one, unknown) for one in computation.instructions.values())


def _cost(program: Program, computation: Computation, one: Instruction, unknown: set[str]) -> float:
    of = program.computations
    if one.opcode == "while":
        trips = program.trips(one)
        if trips is None:
            unknown.add(one.name)
        return (trips or 1) * sum(_run(program, of[one.called[part]], unknown) for part in ("body", "condition"))
    if one.opcode == "conditional":
        return max(_run(program, of[name], unknown) for name in one.called.values())
    if one.opcode in ("call", "async-start"):
        return sum(_run(program, of[name], unknown) for name in one.called.values())
    if one.opcode in FREE or one.opcode.endswith("-done"):
        return 0
    if one.opcode == "custom-call" and any(f'"{name}"' in one.attributes for name in FREE_CALLS):
        return 0
    if one.opcode == "fusion":
        inner = of[one.called["calls"]]
        read = sum(
            min(_read(program, inner, parameter), _main(computation, name))
            for parameter, name in zip(inner.parameters, one.operands, strict=True)
        )
        return read + _written(inner, inner.root, one.types)
    if one.opcode in ("copy-start", "slice-start"):
        target = one.types[0] if one.opcode == "copy-start" else one.types[1]
        read = target.bytes if _main(computation, one.operands[0]) else 0
        return read + _bytes(target)
    if one.opcode in PARTS:
        read = sum(map(_bytes, one.types)) if _main(computation, one.operands[0]) else 0
        return read + _rest(computation, one, 1) + sum(map(_bytes, one.types))
    if one.opcode in UPDATES:
        return _rest(computation, one, 1) + _update(computation, one)
    if kind := kind_of(one):
        own = one.types[len(one.types) // 2 :] if one.opcode.endswith("-start") and kind in KINDS else one.types
        return _rest(computation, one, 0) + sum(map(_bytes, own))
    return _rest(computation, one, 0) + sum(map(_bytes, one.types))


def _read(program: Program, computation: Computation, source: Instruction) -> float:
    """Bytes that a fusion reads of one of its parameters: all of it, but where only parts of it are used."""
    whole = sum(array.bytes for array in source.types)
    total = 0.0
    for user in computation.users[source.name]:
        first = user.operands[0] == source.name
        if user.opcode in PARTS and first:
            total += sum(array.bytes for array in user.types)
        elif user.opcode in UPDATES and first and user.operands.count(source.name) == 1:
            total += 0  # in place
        elif user.opcode in VIEWS:
            total += _read(program, computation, user)
        elif user.opcode == "fusion":
            inner = program.computations[user.called["calls"]]
            places = [place for place, name in enumerate(user.operands) if name == source.name]
            total += sum(_read(program, inner, inner.parameters[place]) for place in places)
        elif user.opcode == "tuple" or kind_of(user) or user.opcode == "custom-call":
            total += 0  # passed on; a collective's bytes are counted where it stands in the schedule
        else:
            return whole
    return min(total, whole)


def _written(computation: Computation, root: Instruction, types: tuple[Array, ...]) -> float:
    """Bytes that a fusion writes, its results being of `types`."""
    if root.opcode == "tuple":
        return sum(
            _written(computation, computation.instructions[name], (array,))
            for name, array in zip(root.operands, types, strict=True)
            if computation.instructions[name].opcode != "parameter"
        )
    if kind_of(root) or root.opcode == "custom-call":
        return 0
    source = root
    while source.opcode in VIEWS and source.operands:
        source = computation.instructions[source.operands[0]]
    if source.opcode in UPDATES and all(array.space == 0 for array in types):
        return _update(computation, source)
    return sum(map(_bytes, types))


def _update(computation: Computation, one: Instruction) -> float:
    place = UPDATES[one.opcode]
    return sum(array.bytes for array in computation.instructions[one.operands[place]].types)


def _rest(computation: Computation, one: Instruction, first: int) -> float:
    """Bytes in main memory of the operands from the `first` on."""
    return sum(_main(computation, name) for name in one.operands[first:])


def _main(computation: Computation, name: str) -> float:
    return sum(map(_bytes, computation.instructions[name].types))


def _bytes(array: Array) -> float:
    return 0 if array.space else array.bytes
