"""A config and a topology to a plan: what the train step takes there, and, where it does not fit, the nearest that does.

Nothing runs, and nothing is allocated beyond shapes: the step is traced for its FLOPs, and compiled (TPUs) or estimated
(GPUs) for memory, traffic and collectives.
"""

import dataclasses
import importlib.metadata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from mofm.axes import MESH_AXES
from mofm.parallel.mesh import make_mesh, mesh_shape
from mofm.planning.arithmetic import PLAIN, count_flops
from mofm.planning.chips import Topology
from mofm.planning.collectives import Sent
from mofm.planning.compiled import Compiled, Memory, TooLargeError, compile_step, tpu_devices
from mofm.planning.estimate import estimate_step
from mofm.planning.roofline import Times, step_times
from mofm.planning.shapes import Facts, Step, find_facts, make_step, on_mesh, with_remat
from mofm.training.config import Config

PLATFORMS = {"tpu": "tpu", "gpu": "cuda"}
"""Maker of a chip -> name of the platform in JAX."""


@dataclass(frozen=True)
class Plan:
    """What a step takes. Bytes and seconds are of one device, FLOPs of all.

    Attributes:
      topology, chip, devices, mesh: where.
      source: what the number of genes, features and rows is from.
      compiler: what compiled it; None for an estimate.
      compile_seconds: how long that took.
      parameters: of the model.
      cells: in a global batch.
      tokens: modality -> tokens of a cell.
      memory: None where the compiler refused.
      required: bytes that are needed; None where the compiler refused and does not say.
      limit: bytes that there are.
      model_flops: of the products of forward and backward pass.
      device_flops: dtype -> the same, with what rematerialisation and the attention kernel compute again.
      traffic: bytes from and to main memory; None where the compiler refused, as all below.
      sent: collectives.
      times: see `roofline.py`.
      unknown_loops: loops whose length the compiler does not give, counted once.
    """

    topology: str
    chip: str
    devices: int
    mesh: dict[str, int]
    source: str
    compiler: str | None
    compile_seconds: float
    parameters: int
    cells: int
    tokens: dict[str, int]
    memory: Memory | None
    required: float | None
    limit: float
    model_flops: float
    device_flops: dict[str, float]
    traffic: float | None = None
    sent: tuple[Sent, ...] = ()
    times: Times | None = None
    unknown_loops: int = 0

    @property
    def fits(self) -> bool:
        """Whether memory suffices."""
        return self.memory is not None and self.memory.total <= self.limit

    @property
    def sent_by_axes(self) -> dict[str, float]:
        """Axes of the mesh -> bytes that one device sends along them."""
        found: dict[str, float] = defaultdict(float)
        for one in self.sent:
            found[one.axes] += one.bytes
        return dict(found)


class Planner:
    """Makes plans for one topology. The same `features` and `edges` hold for all (see `shapes.find_facts`).

    Raises:
      InputError: libtpu is not there, or does not know the topology.
    """

    def __init__(self, topology: Topology, features: Mapping[str, int] | None = None, edges: int | None = None):
        self.topology, self._features, self._edges = topology, features or {}, edges
        self._devices = tpu_devices(topology) if topology.chip.maker == "tpu" else None
        self._facts: dict[str, Facts] = {}

    def mesh(self, config: Config) -> Mesh | AbstractMesh:
        """The config's mesh over the topology; of GPUs, which nothing is compiled for, one without devices."""
        if self._devices is not None:
            return make_mesh(config.mesh, self._devices)
        shape = mesh_shape(config.mesh, self.topology.devices)
        return AbstractMesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))

    def plan(self, config: Config) -> Plan:
        """The plan of a config; one that does not fit is a plan too.

        Raises:
          InputError: the mesh does not fit the topology, the model or the batch; or the corpus cannot be read.
        """
        mesh = self.mesh(config)
        facts = self._facts_of(config)
        step = make_step(config, facts, mesh)
        chip = self.topology.chip
        found, required = None, None
        try:
            found = self._compile(config, facts, step, mesh)
            required = found.memory.total
        except TooLargeError as error:
            required = error.required
        device_flops = _flops(step, mesh, PLATFORMS[chip.maker])
        plain = _flops(make_step(with_remat(config, "none"), facts, mesh), mesh, PLAIN)
        plan = Plan(
            topology=self.topology.title,
            chip=chip.title,
            devices=self.topology.devices,
            mesh=dict(mesh.shape),
            source=facts.source,
            compiler=_versions() if self._devices is not None else None,
            compile_seconds=found.seconds if found else 0.0,
            parameters=sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(step.arguments[1].params)),
            cells=config.data.batch_size,
            tokens=dict(facts.tokens),
            memory=found and found.memory,
            required=required,
            limit=float(chip.memory),
            model_flops=sum(plain.values()),
            device_flops=device_flops,
        )
        if found is None:
            return plan
        plan = dataclasses.replace(
            plan, traffic=found.traffic, sent=tuple(found.sent), unknown_loops=found.unknown_loops
        )
        by_axes = plan.sent_by_axes
        times = step_times(chip, plan.devices, device_flops, found.traffic, by_axes, plan.mesh)
        return dataclasses.replace(plan, times=times)

    def _facts_of(self, config: Config) -> Facts:
        """Looked up once for each kind of batch: a search asks often, and a corpus may be in a bucket."""
        key = repr((config.data, config.network, config.seed))
        if key not in self._facts:
            self._facts[key] = find_facts(config, self._features, self._edges)
        return self._facts[key]

    def _compile(self, config: Config, facts: Facts, step: Step, mesh) -> Compiled:
        limit = float(self.topology.chip.memory)
        if self._devices is None:
            return estimate_step(config, facts, step, mesh, limit)
        return compile_step(step, mesh, limit)

    def state_bytes(self, config: Config) -> float:
        """Bytes of one device's parameters, moments and batch: known without compiling."""
        mesh = self.mesh(config)
        step = make_step(config, self._facts_of(config), mesh)
        leaves = jax.tree.leaves(step.arguments)
        return sum(float(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


def _flops(step: Step, mesh: Mesh | AbstractMesh, platform: str) -> dict[str, float]:
    with on_mesh(mesh):
        return count_flops(step.function, *step.arguments, platform=platform)


def _versions() -> str:
    versions = (importlib.metadata.version(name) for name in ("jax", "libtpu"))
    return "XLA:TPU of jax {}, libtpu {}".format(*versions)
