"""Meshes that fit and meshes that do not; rules that refuse what they do not know."""

import os
import subprocess
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofm import axes
from mofm.batch import CellBatch
from mofm.errors import InputError
from mofm.parallel.mesh import MeshConfig, check_batch, check_views, lay_devices, make_mesh, one_at_a_time
from mofm.parallel.place import place_batch
from mofm.parallel.rules import RULES, constrain, partition, sharding


@pytest.mark.parametrize(
    ("config", "shape"),
    [(MeshConfig(), (8, 1, 1)), (MeshConfig(data=2, fsdp=-1, tensor=2), (2, 2, 2)), (MeshConfig(1, 8, 1), (1, 8, 1))],
)
def test_minus_one_takes_what_is_left(config, shape):
    assert tuple(make_mesh(config).shape.values()) == shape


@pytest.mark.parametrize(
    "config", [MeshConfig(3), MeshConfig(-1, -1), MeshConfig(0), MeshConfig(-1, 3), MeshConfig(2, 2, 1)]
)
def test_a_mesh_that_does_not_fit_is_refused(config):
    with pytest.raises(InputError, match="mesh data="):
        make_mesh(config)


@dataclass(frozen=True)
class Chip:
    """What laying out asks of a device."""

    id: int
    slice_index: int
    platform: str = "pretended"
    device_kind: str = "pretended"


def test_only_data_goes_from_slice_to_slice():
    """Whatever the order that the devices come in."""
    devices = [Chip(number, number % 2) for number in range(16)]
    laid = lay_devices((4, 2, 2), devices)
    assert sorted(device.id for device in laid.flat) == list(range(16))
    slices = np.vectorize(lambda place: laid.flat[place].slice_index)(np.arange(16).reshape(4, 2, 2))
    np.testing.assert_array_equal(slices, np.broadcast_to(np.array([0, 0, 1, 1])[:, None, None], (4, 2, 2)))
    with pytest.raises(InputError, match="cannot be laid over 2 slices: only data goes from slice to slice"):
        lay_devices((1, 8, 2), devices)


def test_a_batch_that_the_mesh_cannot_divide_is_refused_with_the_nearest():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    check_batch(mesh, 16)
    with pytest.raises(InputError, match=r"batch_size=20 .* use 16 or 24"):
        check_batch(mesh, 20)


def test_every_logical_axis_has_a_rule():
    assert set(axes.LOGICAL_AXES) <= set(RULES)


def test_unknown_names_and_collisions_raise():
    with pytest.raises(KeyError, match="no rule"):
        partition(("embde",))
    with pytest.raises(ValueError, match="collide"):
        partition((axes.FFN, axes.HEADS))


def test_a_batch_is_laid_over_data_and_fsdp(make_view):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    view = make_view(cells=8)
    placed = place_batch(CellBatch(rna=view), mesh)
    assert placed.atac is None
    np.testing.assert_array_equal(placed.rna.counts_BL, view.counts_BL)
    assert {shard.data.shape[0] for shard in placed.rna.counts_BL.addressable_shards} == {2}


def test_views_that_do_not_divide_are_refused_by_name():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_views(mesh, {"rna": 8, "atac": 4})
    with pytest.raises(InputError, match=r"6 rows of atac.*4 devices: set data\.quota_multiple=4"):
        check_views(mesh, {"rna": 8, "atac": 6})


def test_constrain_is_the_identity_without_a_mesh_and_lays_out_with_one():
    x = jnp.ones((8, 4))
    assert constrain(x, (axes.CELLS, None)) is x
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=4))):
        laid = jax.jit(lambda x: constrain(x, (axes.CELLS, None)))(x)
    assert laid.sharding.spec[0] == ("data", "fsdp")


def test_programs_over_devices_of_a_cpu_run_one_at_a_time():
    """Two that are under way at once can starve each other of XLA's threads, which it ends by abort."""
    program = lambda x: x + 1  # noqa: E731
    assert one_at_a_time(program, make_mesh(MeshConfig(), jax.devices()[:1])) is program
    mesh = make_mesh(MeshConfig())
    total = one_at_a_time(jax.jit(lambda x: x - x.mean()), mesh)
    x = jax.device_put(np.arange(64.0, dtype=np.float32), sharding(mesh, (axes.CELLS,)))
    for _ in range(50):
        x = total(x)
        assert x.is_ready()
    np.testing.assert_allclose(np.asarray(x), np.arange(64) - 31.5)


KEEP = """
import sys
from pathlib import Path
import jax
from mofm.parallel.mesh import keep_programs

jax.jit(lambda x: x + 1)(1.0)  # the process has compiled before
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
backend = jax.default_backend
jax.default_backend = lambda: sys.argv[2]
keep_programs(Path(sys.argv[1]))
jax.default_backend = backend
jax.jit(lambda x: x * 2)(1.0)
"""


@pytest.mark.parametrize(
    ("platform", "set_before", "kept"), [("gpu", False, True), ("cpu", False, False), ("gpu", True, False)]
)
def test_programs_of_an_accelerator_are_kept_and_no_cache_of_the_users_is_changed(tmp_path, platform, set_before, kept):
    env = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")} if set_before else {}
    folder = tmp_path / "programs"
    subprocess.run([sys.executable, "-c", KEEP, str(folder), platform], env=env, check=True)
    assert folder.exists() == kept
    if kept:
        assert any(folder.iterdir())
    if set_before:
        assert any((tmp_path / "own").iterdir())
