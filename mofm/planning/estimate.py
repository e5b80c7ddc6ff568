"""What a step takes on GPUs, by arithmetic: XLA compiles for a GPU only where there is one, so this is an estimate.

    state        the parameters and moments of a device, exactly, by their real shardings; gradients as the parameters
    kept         what the backward pass keeps of the forward pass: exactly what JAX's own differentiation keeps, at the
                 config's remat; its part that grows with the batch is shared out over data x fsdp
    working      under remat, what one block keeps when it is run again (and where it is none, nothing)
    memory       state, gradients, kept and working, and a copy of the weights in the compute dtype; of a batch in parts
                 (optimizer.accumulate) gradients twice, and what is kept of one part
    traffic      what is kept, and what blocks make under remat, written and read once in each pass; each weight's state as
                 AdamW reads and writes it (7 float32), its copies three times
    network      data: gradients, all-reduced; fsdp: copies of the weights gathered in both passes, and gradients
                 scattered; tensor: states all-reduced twice a block in each pass

Beside XLA:TPU's own figures for the same meshes, configs/base.py on v5e:4x4 and configs/pod.py on v5e:16x16: temporaries
15.3 GiB for 11.5 and 10.1 for 7.2; traffic 146 GB for 178 and 477 for 445; bytes sent 1.00 GB for 0.57 (gradients are bfloat16
there) and 10.5 for 8.9. On a GPU it was compared with nothing yet.

What it leaves out: fragments, cuDNN's workspaces, and fusions by which XLA keeps less. Attention is counted as in
`nn/attention.py` off TPU and CPU.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mofm.axes import DATA, FSDP, TENSOR
from mofm.planning.collectives import Sent, ring_bytes
from mofm.planning.compiled import Compiled, Memory
from mofm.planning.shapes import Facts, Step, make_step, on_mesh, with_remat
from mofm.training.config import Config
from mofm.training.step import training_loss


class _Kept(NamedTuple):
    """Bytes that differentiation keeps: of the batch as it is, and whatever the batch."""

    of_batch: float
    of_weights: float


def estimate_step(config: Config, facts: Facts, step: Step, mesh: Mesh, limit: float) -> Compiled:
    """What `compile_step` would give, estimated; its seconds are 0."""
    parts = mesh.shape[DATA] * mesh.shape[FSDP]
    state = step.arguments[1]
    arguments, parameters = _local(step.arguments), _local(state.params)
    dtype = jnp.dtype(config.encoder.compute_dtype)
    copies = _gathered(state.params, mesh) / 4 * dtype.itemsize if dtype.itemsize < 4 else 0.0
    kept = _kept(config, facts, mesh)
    everything = kept if config.encoder.remat == "none" else _kept(with_remat(config, "none"), facts, mesh)
    blocks = config.encoder.blocks + config.encoder.modality_blocks
    working = 0.0 if config.encoder.remat == "none" else (everything.of_batch - kept.of_batch) / max(blocks, 1) / parts
    turns = config.optimizer.accumulate
    temporaries = parameters * min(turns, 2) + copies + (kept.of_batch / parts + max(working, 0.0)) / turns
    passes = 2 * everything.of_batch / parts + 2 * (everything.of_batch - kept.of_batch) / parts
    traffic = passes + 7 * parameters + 3 * copies
    memory = Memory(arguments, temporaries, 0.0, limit)
    return Compiled(memory, traffic, 0, _sent(config, facts, state.params, mesh), 0.0)


def _local(tree) -> float:
    """Bytes of one device."""
    leaves = jax.tree.leaves(tree)
    return sum(float(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


def _gathered(params, mesh: Mesh) -> float:
    """Bytes of the weights that a device has once fsdp is gathered: its part of tensor alone."""
    return _local(params) * mesh.shape[FSDP]


def _kept(config: Config, facts: Facts, mesh: Mesh) -> _Kept:
    """From residuals at the batch as it is and at twice that: what grows is the batch's."""
    one, two = (_residuals(config, facts, mesh, times) for times in (1, 2))
    return _Kept(two - one, 2 * one - two)


def _residuals(config: Config, facts: Facts, mesh: Mesh, times: int) -> float:
    data = dataclasses.replace(config.data, batch_size=config.data.batch_size * times)
    pairs = tuple(
        pair._replace(starts=tuple(start * times for start in pair.starts), rows=pair.rows * times)
        for pair in facts.pairs
    )
    rows = {modality: count * times for modality, count in facts.rows.items()}
    facts = facts._replace(rows=rows, pairs=pairs)
    step = make_step(dataclasses.replace(config, data=data), facts, mesh)
    known, state, batch = step.arguments

    def backward(known, params, batch):
        loss = partial(training_loss, step.recipe, known)
        return jax.vjp(lambda p: loss(p, batch, jax.random.key(0), jnp.zeros((), jnp.int32)), params, has_aux=True)[1]

    with on_mesh(mesh):
        leaves = jax.tree.leaves(jax.eval_shape(backward, known, state.params, batch))
    return float(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves))


def _sent(config: Config, facts: Facts, params, mesh: Mesh) -> list[Sent]:
    data, fsdp, tensor = (mesh.shape[axis] for axis in (DATA, FSDP, TENSOR))
    itemsize = jnp.dtype(config.encoder.compute_dtype).itemsize
    weights = _gathered(params, mesh)
    found = [Sent("all-reduce", DATA, ring_bytes("all-reduce", data, weights / fsdp), 1)]
    found.append(Sent("all-gather", FSDP, 2 * ring_bytes("all-gather", fsdp, weights / 4 * itemsize), 2))
    found.append(Sent("reduce-scatter", FSDP, ring_bytes("reduce-scatter", fsdp, weights), 1))
    tokens = sum(rows * facts.tokens[modality] for modality, rows in facts.rows.items()) / (data * fsdp)
    states = tokens * config.encoder.width * itemsize
    times = 4 * (config.encoder.blocks + config.encoder.modality_blocks)
    found.append(Sent("all-reduce", TENSOR, times * ring_bytes("all-reduce", tensor, states), times))
    return [one for one in found if one.bytes]
