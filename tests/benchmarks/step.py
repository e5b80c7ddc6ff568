"""Cells a second of a train step: compiled, warm, without the stream.

    python tests/benchmarks/step.py [--config configs/small.py] [--config.encoder.width=256 ...]

Prints the median over rounds, interleaved with a fixed matrix product of the same machine, so that two runs on shared
machines compare by the ratio "model FLOP/s : matmul FLOP/s". FLOPs are counted from the model's arithmetic (products
only, backward twice the forward; recomputation under remat is not counted).
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import machine, parser, show

from mofm.batches.stream import Stream
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.nn.model import EncoderConfig, ModelSpec
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.parallel.mesh import make_mesh
from mofm.parallel.place import place_batch
from mofm.training.config import load_config
from mofm.training.loop import start_models
from mofm.training.optimizer import make_optimizer
from mofm.training.state import create_state
from mofm.training.step import Recipe, train_step


def main() -> None:
    """Time one config."""
    arguments = parser(__doc__)
    arguments.add_argument("--config", default=str(Path(__file__).parents[2] / "configs" / "small.py"))
    arguments.add_argument("--rounds", type=int, default=12)
    args, rest = arguments.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "cells.h5ad", Path(folder) / "corpus"
        simulate(SimulationConfig(cells=1_000, genes=2_000, counts=6_000, seed=0)).write_h5ad(source)
        ingest([source], path)
        overrides = [word.removeprefix("--config.") for word in rest]
        config = load_config(args.config, [f"data.corpus={path}", *overrides])
        corpus = open_corpus(path)
        stream = Stream(corpus, config.data, config.seed)
        spec = ModelSpec(config.encoder, len(corpus.features))
        recipe = Recipe(spec, config.objectives, make_optimizer(config.optimizer, config.run.steps), config.seed)
        mesh = make_mesh(config.mesh)
        start = start_models(corpus, stream, config, spec)
        state = create_state(spec, recipe.optimizer, mesh, config.seed, start)
        batch = place_batch(stream.batch(0), mesh)
    step = jax.jit(partial(train_step, recipe), donate_argnums=0)
    product, side = jax.jit(lambda a: a @ a), 2048
    square = jnp.ones((side, side), config.encoder.compute_dtype)
    times = {"step": [], "product": []}
    with jax.set_mesh(mesh):
        state, _ = jax.block_until_ready(step(state, batch))
        jax.block_until_ready(product(square))
        for _ in range(args.rounds):
            begin = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch))
            times["step"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            jax.block_until_ready(product(square))
            times["product"].append(time.perf_counter() - begin)
    seconds, reference = (float(np.median(times[name])) for name in ("step", "product"))
    cells, tokens = config.data.batch_size, config.data.tokens
    flops = 3 * cells * forward_flops(config.encoder, tokens)
    ratio = flops / seconds / (2 * side**3 / reference)
    print(machine())
    row = {
        "cells": cells,
        "tokens": tokens,
        "width x blocks": f"{config.encoder.width} x {config.encoder.blocks}",
        "ms a step": seconds * 1e3,
        "cells/s": cells / seconds,
        "GFLOP/s": flops / seconds / 1e9,
        "of a matmul's": ratio,
    }
    show("train step", [row])


def forward_flops(encoder: EncoderConfig, tokens: int) -> float:
    """Multiply-adds of a cell's forward pass, times two."""
    width = encoder.width
    token = encoder.blocks * (4 * width**2 + 3 * width * encoder.ffn + 2 * tokens * width) + 3 * width**2
    return 2.0 * tokens * token


if __name__ == "__main__":
    main()
