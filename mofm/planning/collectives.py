"""What devices send each other in a compiled program: which collective, along which axes of the mesh, how many bytes.

Bytes are those that one device sends in a ring of n, the least that any algorithm sends (Patarasuk and Yuan 2009):

    all-gather, reduce-scatter, all-to-all    (n - 1) / n of the whole array
    all-reduce                                twice that
    permute                                   the array

What goes from slice to slice XLA:TPU has already taken apart: a collective within each slice, and a transfer, through the
host, of what each device then holds. That transfer is counted as it stands.

XLA:TPU splits a collective that it overlaps with products into several fusions; they share a channel and are one.
"""

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from mofm.planning.hlo import Array, Computation, Instruction, Program

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
SLICES = "slices"
"""Name of the way from slice to slice, which is no axis of its own."""
UNKNOWN = "unknown"
"""Name of the axis where XLA's groups are in a form that is not known here."""

_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=(?:@?\w*\s*)mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_BETWEEN_SLICES = "xla_megascale_runtime"


class Sent(NamedTuple):
    """One kind of collective along some axes of the mesh, "+" between their names: what one device sends in a run."""

    kind: str
    axes: str
    bytes: float
    times: float


def kind_of(one: Instruction) -> str | None:
    """Which of KINDS an instruction is, or begins; None for others."""
    name = one.opcode.removesuffix("-start")
    return name if name in KINDS else None


def sent(program: Program, mesh: dict[str, int]) -> list[Sent]:
    """All that one device sends, loops counted as often as they go round, those of unknown length once.

    Args:
      mesh: axis -> size, outermost first; the program's devices are those of this mesh in order.
    """
    totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    _walk(program, program.computations[program.entry], mesh, 1, totals)
    return [Sent(*key, *values) for key, values in sorted(totals.items()) if values[0]]


def _walk(program: Program, computation: Computation, mesh: dict[str, int], times: float, totals) -> None:
    seen: set[str] = set()  # channels of this computation
    for one in computation.instructions.values():
        _count(program, computation, one, mesh, times, totals, seen)


def _count(program, computation, one, mesh, times, totals, seen: set[str]) -> None:
    if kind := kind_of(one):
        channel = _CHANNEL.search(one.attributes)
        if channel and channel[1] in seen:
            return
        seen |= {channel[1]} if channel else set()
        if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # of which XLA:TPU keeps a device's part at once
        axes, devices = axes_of(one, mesh)
        entry = totals[kind, axes]
        entry[0] += times * ring_bytes(kind, devices, _size(computation, one, kind))
        entry[1] += times
    elif one.opcode == "send" and _BETWEEN_SLICES in one.attributes:
        entry = totals["transfer", SLICES]
        entry[0] += times * _total(computation.instructions[one.operands[0]].types)
        entry[1] += times
    elif one.opcode == "while":
        rounds = program.trips(one) or 1
        _walk(program, program.computations[one.called["body"]], mesh, times * rounds, totals)
    elif one.opcode == "fusion":
        inner = program.computations[one.called["calls"]]
        for nested in inner.instructions.values():
            _count(program, inner, nested, mesh, times, totals, seen)
    elif one.opcode in ("call", "async-start", "conditional"):
        for name in one.called.values():
            _walk(program, program.computations[name], mesh, times, totals)


def _size(computation: Computation, one: Instruction, kind: str) -> float:
    """Bytes of the whole array: what an all-gather gives, what the others take."""
    if kind == "all-gather":
        own = one.types[len(one.types) // 2 :] if one.opcode.endswith("-start") else one.types
        return _total(own)
    return sum(_total(computation.instructions[name].types) for name in one.operands)


def _total(arrays: tuple[Array, ...]) -> float:
    return sum(array.bytes for array in arrays)


def ring_bytes(kind: str, devices: int, size: float) -> float:
    """Bytes that one of `devices` in a ring sends for an array of `size` bytes."""
    if devices < 2:
        return 0.0
    share = {"all-reduce": 2 * (devices - 1) / devices, "collective-permute": 1.0, "collective-broadcast": 1.0}
    return share.get(kind, (devices - 1) / devices) * size


def axes_of(one: Instruction, mesh: dict[str, int]) -> tuple[str, int]:
    """("data+fsdp", how many devices a group has): the axes of the mesh along which a collective goes."""
    groups = _groups(one.attributes, int(np.prod(list(mesh.values()))))
    if groups is None:
        return UNKNOWN, int(np.prod(list(mesh.values())))
    places_AGN = np.array(np.unravel_index(groups, tuple(mesh.values())))
    varies = (places_AGN != places_AGN[:, :, :1]).any(axis=(1, 2))
    return "+".join(name for name, is_along in zip(mesh, varies, strict=True) if is_along), groups.shape[1]


def _groups(attributes: str, devices: int) -> np.ndarray | None:
    """Groups x devices, numbers; None for a form that is not known."""
    if pairs := _PAIRS.search(attributes):
        return np.array(re.findall(r"(\d+),(\d+)", pairs[1]), int).reshape(-1, 2)
    if found := _MESH.search(attributes):
        return _mesh_groups(*found.groups(), devices)
    if found := _IOTA.search(attributes):
        shape, dims, order = (_numbers(text) for text in found.groups())
        return _iota(dims, order).reshape(shape)
    if found := _LISTED.search(attributes):
        groups = [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", found[1])]
        if len({len(group) for group in groups}) > 1:
            return None
        return np.array(groups, int) if groups else np.arange(devices)[None]
    return None


def _mesh_groups(sizes: str, dims: str | None, order: str | None, along: str, devices: int) -> np.ndarray | None:
    """Of `mesh['x'=2,'y'=8], device_ids=([8,2]T(1,0)) {'x'}`."""
    shape = {name: int(size) for name, size in re.findall(r"'?(\w+)'?=(\d+)", sizes)}
    names = re.findall(r"'?([\w:()]+)'?", along)
    if any(name not in shape for name in names) or np.prod(list(shape.values())) != devices:
        return None  # parts of axes
    ids = _iota(_numbers(dims), _numbers(order)) if dims else np.arange(devices)
    ids = ids.reshape(list(shape.values()))
    where = list(shape)
    moved = np.moveaxis(ids, [where.index(name) for name in names], range(-len(names), 0))
    return moved.reshape(-1, int(np.prod([shape[name] for name in names])))


def _iota(dims: list[int], order: list[int]) -> np.ndarray:
    ids = np.arange(np.prod(dims)).reshape(dims)
    return (ids.transpose(order) if order else ids).ravel()


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",") if number] if text else []
