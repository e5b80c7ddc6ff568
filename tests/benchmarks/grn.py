"""What a regulatory network adds to a training step, in time and memory.

    python tests/benchmarks/grn.py [--config configs/small.py] [--cells 8] [--edges 30000 1000000] [--config.KEY=VALUE ...]

The same step with and without a network, in turn, over one batch of random cells. The network passes once a step, whatever
the number of cells, so on a small machine fewer cells are timed than the config has (--cells), and its share of a step of
the config's own batch is worked out: a step without a network takes time in proportion to its cells. Memory is what XLA
reserves for the step beside its arguments.
"""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from common import machine, parser, show

from mofm.batch import CellBatch, TokenBatch
from mofm.batches.graph import make_graph
from mofm.nn import model
from mofm.nn.spec import ModelSpec
from mofm.training.config import Config, load_config
from mofm.training.optimizer import make_optimizer
from mofm.training.state import TrainState
from mofm.training.step import Knowledge, Recipe, train_step


def main() -> None:
    """Time one config with networks of several sizes."""
    arguments = parser(__doc__)
    arguments.add_argument("--config", default=str(Path(__file__).parents[2] / "configs" / "small.py"))
    arguments.add_argument("--cells", type=int, help="cells of the batch that is timed (default: the config's)")
    arguments.add_argument("--genes", type=int, default=20_000)
    arguments.add_argument("--tfs", type=int, default=1_000)
    arguments.add_argument("--edges", type=int, nargs="+", default=[30_000, 1_000_000])
    arguments.add_argument("--rounds", type=int, default=5)
    args, rest = arguments.parse_known_args()
    config = load_config(args.config, ["data.corpus=none", *(word.removeprefix("--config.") for word in rest)])
    cells = args.cells or config.data.batch_size
    batch = random_batch(cells, config.data.tokens, args.genes)
    print(machine())
    steps = {edges: compiled_step(config, batch, args.genes, args.tfs, edges) for edges in (0, *args.edges)}
    seconds = np.array([[step() for step, _ in steps.values()] for _ in range(args.rounds + 1)][1:])
    rows = []
    for column, (edges, (_, megabytes)) in enumerate(steps.items()):
        added = np.median(seconds[:, column] - seconds[:, 0])
        whole = np.median(seconds[:, 0]) * config.data.batch_size / cells
        row = {
            "edges": f"{edges:,}" if edges else "no network",
            "ms a step": float(np.median(seconds[:, column]) * 1e3),
        }
        row |= {"ms added": float(added * 1e3), f"of a step of {config.data.batch_size} cells": f"{added / whole:.2%}"}
        rows.append(row | {"MB beside arguments": float(megabytes)})
    encoder = config.encoder
    show(
        f"{encoder.blocks} blocks of {encoder.width}, {cells} cells x {config.data.tokens} tokens, {args.genes:,} genes",
        rows,
    )


def random_batch(cells: int, tokens: int, genes: int) -> CellBatch:
    """RNA of random cells without padding."""
    rng = np.random.default_rng(0)
    counts_BL = rng.poisson(1.0, (cells, tokens)).astype(np.float32)
    features_BL = rng.integers(0, genes, (cells, tokens)).astype(np.int32)
    whole, number_B = np.ones((cells, tokens), bool), np.arange(cells, dtype=np.int32)
    library_B = np.full(cells, 5_000.0, np.float32)
    return CellBatch(TokenBatch(features_BL, np.log1p(counts_BL), counts_BL, whole, library_B, number_B, 0 * number_B))


def random_edges(genes: int, tfs: int, edges: int) -> pd.DataFrame:
    """Distinct pairs of one network."""
    rng = np.random.default_rng(1)
    keys = np.sort(rng.choice(tfs * genes, edges, replace=False))
    signs = rng.choice(np.array([-1, 0, 1]), edges)
    columns = {"tf": keys // genes, "target": keys % genes, "relation": 0, "sign": signs, "weight": 1.0}
    return pd.DataFrame(columns)


def compiled_step(config: Config, batch: CellBatch, genes: int, tfs: int, edges: int):
    """A function that takes one step and returns its seconds; and the MB that XLA reserves."""
    spec = ModelSpec(config.encoder, genes, config.grn, relations=int(edges > 0))
    graph = jax.device_put(make_graph(random_edges(genes, tfs, edges), spec.genes)) if edges else None
    recipe = Recipe(spec, config.objectives, make_optimizer(config.optimizer, config.run.steps), config.seed)

    @jax.jit
    def fresh(key):
        params = model.init(spec, key)
        return TrainState(jnp.zeros((), jnp.int32), params, recipe.optimizer.init(params))

    state, batch = fresh(jax.random.key(0)), jax.device_put(batch)
    compiled = (
        jax.jit(partial(train_step, recipe), donate_argnums=1).lower(Knowledge({}, graph), state, batch).compile()
    )

    def step() -> float:
        nonlocal state
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(Knowledge({}, graph), state, batch))
        return time.perf_counter() - begin

    return step, compiled.memory_analysis().temp_size_in_bytes / 1e6


if __name__ == "__main__":
    main()
