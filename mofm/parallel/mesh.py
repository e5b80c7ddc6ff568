"""The device mesh: axes data, fsdp and tensor, sized by the config and checked against the devices that are there.

The batch is laid over ("data", "fsdp") together, so that FSDP devices each see their own cells; weights are laid over
"fsdp" and "tensor". Axis types are Auto: the compiler propagates shardings from the ones declared on weights and batch
(on Explicit axes, `jax.make_mesh`'s default, Linen's logical partitioning fails).

Several TPU slices share the data axis: the outer part of it goes from slice to slice over the data centre's network, which
is tens of times slower than a slice's own links, and only sums of gradients have to go along data. fsdp and tensor stay within
a slice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh

from mofm.axes import DATA, FSDP, MESH_AXES, TENSOR
from mofm.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes. One of them may be -1: it takes the devices that the others leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (all of them when None).

    Raises:
      InputError: a size is neither -1 nor positive, more than one is -1, the sizes do not multiply to the devices, or data is
        no multiple of the slices.
    """
    devices = jax.devices() if devices is None else devices
    types = (AxisType.Auto,) * len(MESH_AXES)
    return Mesh(lay_devices(mesh_shape(config, len(devices)), devices), MESH_AXES, axis_types=types)


def lay_devices(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices in the shape of MESH_AXES, neighbours along an axis near each other. Raises `InputError` as `make_mesh`."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    # As `jax.make_mesh` does it, which on some TPUs does not split a side of the slice: of 8 x 8, no axis of 4 is a whole one.
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, *within = shape
    if data % slices:
        fsdp, tensor = within
        raise InputError(
            f"mesh data={data} x fsdp={fsdp} x tensor={tensor} cannot be laid over {slices} slices: only data goes from slice "
            f"to slice, so it is a multiple of {slices}; lower mesh.fsdp or mesh.tensor, and set mesh.data=-1"
        )
    between = (slices, *(1 for _ in within))
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *within), between, devices, allow_split_physical_axes=True
    )


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Sizes of MESH_AXES over so many devices, -1 filled. Raises `InputError` as `make_mesh` does."""
    sizes = {DATA: config.data, FSDP: config.fsdp, TENSOR: config.tensor}
    asked = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()) or list(sizes.values()).count(-1) > 1:
        raise InputError(f"mesh {asked}: each axis is a positive number, and at most one is -1 (it takes what is left)")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    filled = {axis: devices // fixed if size == -1 else size for axis, size in sizes.items()}
    if math.prod(filled.values()) != devices:
        raise InputError(
            f"mesh {asked} does not fit {devices} device(s): set mesh.data=-1 to take what fsdp and tensor leave, "
            f"and make their product divide {devices}"
        )
    return tuple(filled.values())


def check_batch(mesh: Mesh, batch_size: int, parts: int = 1) -> None:
    """Refuse a global batch of which so many parts cannot each be laid evenly over the mesh's data and fsdp axes."""
    devices = mesh.shape[DATA] * mesh.shape[FSDP]
    shards = devices * parts
    if batch_size % shards:
        below, above = batch_size // shards * shards, -(-batch_size // shards) * shards
        nearest = f"{below} or {above}" if below else f"{above}"
        raise InputError(
            f"data.batch_size={batch_size} cannot be divided over data x fsdp = {devices} devices{_in_parts(parts)}: "
            f"use {nearest}"
        )


def check_views(mesh: Mesh, rows: Mapping[str, int], parts: int = 1) -> None:
    """Refuse a batch whose views (modality -> rows) the data axes cannot share out evenly, in so many parts.

    Raises:
      InputError: the rows of a view are no multiple of the devices that share it, times the parts.
    """
    devices = mesh.shape[DATA] * mesh.shape[FSDP]
    for modality, count in rows.items():
        if count % (devices * parts):
            raise InputError(
                f"a batch has {count} rows of {modality}, which cannot be divided over data x fsdp = {devices} devices"
                f"{_in_parts(parts)}: set data.quota_multiple={devices * parts}, and data.batch_size to a multiple of it"
            )


def _in_parts(parts: int) -> str:
    return f" in optimizer.accumulate={parts} parts" if parts > 1 else ""


def keep_programs(folder: Path) -> None:
    """What is compiled from now on is kept in `folder`, and found there again; where a cache was set already, it stays.

    A run that goes on need not compile again, and runs the very program that it began with: a GPU's compiler chooses among
    kernels by timing them, and may choose others, whose bits differ. Not on a CPU: a program that comes out of the cache
    there has lost the order of its collectives, and over several devices hangs.
    """
    if jax.default_backend() == "cpu" or jax.config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    compilation_cache.reset_cache()  # or what was decided at the first compilation of the process holds


def one_at_a_time(program: Callable[..., T], mesh: Mesh) -> Callable[..., T]:
    """`program`, compiled for `mesh`, as it is; where a CPU plays several devices, waited for at every call.

    XLA's threads on a CPU are fewer than two such programs need, and a collective waits for all of its devices: a second
    program, dispatched while the first has a device that was not begun, can take the thread that this one needs, and after
    40 seconds XLA aborts the process.
    """
    if mesh.devices.flat[0].platform != "cpu" or mesh.size == 1:
        return program
    return lambda *arguments: jax.block_until_ready(program(*arguments))
