"""Cells a second of a train step: compiled, warm, without the stream; beside it the same model in PyTorch.

    python tests/benchmarks/step.py [--config configs/small.py] [--config.encoder.width=256 ...]
    python tests/benchmarks/step.py --torch PYTHON      an interpreter that has PyTorch, where this one has none
    python tests/benchmarks/step.py --laptop            4 blocks of 256, 8 heads, 512 tokens, 16 cells, float32

A round is one step of mofm, one of PyTorch (step_torch.py, a process of its own: eager with SDPA, or --torch-compile),
and a fixed matrix product, in turn; figures are medians, ratios are taken within a round, so that they hold on a machine
that is shared. On one core (`taskset -c 0 python ...`) no thread waits for another, and the ratio in CPU time is what a
busy machine changes least. FLOPs are counted from the model's arithmetic (products only, backward twice the forward;
recomputation under remat is not counted) for both alike. The last line is one JSON object of the medians; "mfu" is the share of
the matrix product's rate.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import machine, parser, show, write_cells

from mofm.batches.spaces import corpus_spaces
from mofm.batches.stream import Stream
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.parallel.mesh import make_mesh
from mofm.parallel.place import place_batch
from mofm.training.config import Config, load_config
from mofm.training.fit_start import fit_start
from mofm.training.optimizer import make_optimizer
from mofm.training.state import create_state
from mofm.training.step import Knowledge, Recipe, train_step

LAPTOP = ("encoder.width=256", "encoder.blocks=4", "encoder.heads=8", "encoder.ffn=704", "encoder.cell_width=128")
LAPTOP += ("data.tokens=512", "data.batch_size=16", "encoder.compute_dtype=float32")


Step = Callable[[], tuple[float, float]]
"""Takes one step, waits for its end and returns the seconds it took, and those of CPU time over all threads."""


def main() -> None:
    """Time one config."""
    arguments = parser(__doc__)
    arguments.add_argument("--config", default=str(Path(__file__).parents[2] / "configs" / "small.py"))
    arguments.add_argument("--laptop", action="store_true", help="the size given above")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument(
        "--torch", metavar="PYTHON", help="interpreter with PyTorch (default: this one, if it has it)"
    )
    arguments.add_argument("--torch-compile", action="store_true", help="torch.compile for the peer")
    args, rest = arguments.parse_known_args()
    overrides = [*(LAPTOP if args.laptop else ()), *(word.removeprefix("--config.") for word in rest)]
    with tempfile.TemporaryDirectory() as folder:
        config, genes, devices, mofm = mofm_step(Path(folder), args.config, overrides)
    product, product_flops = matmul(config.encoder.compute_dtype)
    python = args.torch or (sys.executable if importlib.util.find_spec("torch") else None)
    with torch_step(python, config, genes, args.torch_compile) as torch:
        steps = {"mofm": mofm, "PyTorch": torch, "matmul": product}
        seconds, cpu = timed({name: step for name, step in steps.items() if step}, args.rounds)
    flops = 3 * config.data.batch_size * forward_flops(config.encoder, config.data.tokens)
    matmul_rates = product_flops / seconds.pop("matmul")
    rows = []
    for name, times in seconds.items():
        on = devices if name == "mofm" else 1
        row = {
            "": name,
            "ms a step": f"{np.median(times) * 1e3:,.0f}",
            "(lowest-highest)": f"{times.min() * 1e3:,.0f}-{times.max() * 1e3:,.0f}",
            "CPU ms": f"{np.median(cpu[name]) * 1e3:,.0f}",
            "cells/s": float(config.data.batch_size / np.median(times)),
            "GFLOP/s": float(flops / np.median(times) / 1e9),
            "of a matmul's": float(np.median(flops / times / on / matmul_rates)),
        }
        if torch:
            row["speed to PyTorch's"] = float(np.median(seconds["PyTorch"] / times))
            row["in CPU time"] = float(np.median(cpu["PyTorch"] / cpu[name]))
        rows.append(row)
    encoder = config.encoder
    print(machine())
    show(
        f"train step, {encoder.blocks} blocks of {encoder.width}, {encoder.heads} heads, ffn {encoder.ffn}, "
        f"{config.data.batch_size} cells x {config.data.tokens} tokens, {encoder.compute_dtype}, remat {encoder.remat}",
        rows,
    )
    found = {row[""]: row for row in rows}
    told = {
        "ours_cells_per_s": found["mofm"]["cells/s"],
        "torch_cells_per_s": found["PyTorch"]["cells/s"] if torch else None,
        "ratio": found["mofm"].get("speed to PyTorch's"),
        "ratio_cpu": found["mofm"].get("in CPU time"),
        "mfu": found["mofm"]["of a matmul's"],
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "config": {
            "encoder": dataclasses.asdict(encoder),
            "cells": config.data.batch_size,
            "tokens": config.data.tokens,
        },
    }
    print(json.dumps(told))


def timed(steps: dict[str, Step], rounds: int) -> list[dict[str, np.ndarray]]:
    """Seconds and CPU seconds of each step in each round; the first round, which compiles, is not kept."""
    table = np.array([[step() for step in steps.values()] for _ in range(rounds + 1)][1:])
    return [dict(zip(steps, kind.T, strict=True)) for kind in np.moveaxis(table, -1, 0)]


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and CPU seconds of `work`, which ends when it is done."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def mofm_step(folder: Path, config_path: str, overrides: list[str]) -> tuple[Config, int, int, Step]:
    """The config, the number of genes and of devices, and the step, over one batch without padding."""
    source, path = folder / "cells.h5ad", folder / "corpus"
    config = load_config(config_path, [f"data.corpus={path}", *overrides])
    write_cells(source, max(1_000, 2 * config.data.batch_size), 8 * config.data.tokens)  # a fifth is expressed
    ingest([source], path)
    corpus = open_corpus(path)
    stream = Stream(corpus, config.data, config.seed)
    genes, spaces = corpus_spaces(corpus)
    spec = ModelSpec(config.encoder, len(genes))
    recipe = Recipe(spec, config.objectives, make_optimizer(config.optimizer, config.run.steps), config.seed)
    mesh = make_mesh(config.mesh)
    state = create_state(spec, recipe.optimizer, mesh, config.seed, fit_start(corpus, stream, config, spec, spaces))
    batch = place_batch(stream.batch(0), mesh)
    compiled = jax.jit(partial(train_step, recipe, Knowledge(spaces)), donate_argnums=0)

    def step() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, _ = jax.block_until_ready(compiled(state, batch))

    return config, spec.genes, mesh.devices.size, partial(clock, step)


@contextmanager
def torch_step(python: str | None, config: Config, genes: int, compiled: bool) -> Iterator[Step | None]:
    """The step of step_torch.py in its own process, which waits while others are timed; None without PyTorch."""
    if python is None:
        print("not measured: PyTorch (not installed here; give --torch PYTHON, an interpreter that has it)")
        yield None
        return
    names = ("width", "blocks", "heads", "ffn", "cell_width", "bins", "compute_dtype")
    sizes = {name: getattr(config.encoder, name) for name in names}
    sizes |= {"cells": config.data.batch_size, "tokens": config.data.tokens, "genes": genes, "compile": compiled}
    command = [python, str(Path(__file__).with_name("step_torch.py")), json.dumps(sizes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:

        def step() -> tuple[float, float]:
            process.stdin.write("step\n")
            line = process.stdout.readline()
            if not line:
                sys.exit("step_torch.py ended; what it said stands above")
            seconds, cpu = map(float, line.split())
            return seconds, cpu

        print(process.stdout.readline().strip() or sys.exit("step_torch.py did not start; what it said stands above"))
        yield step
        process.stdin.close()


def matmul(dtype: str) -> tuple[Step, float]:
    """A square product on one device, large enough to run at its full rate, and its FLOPs."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    square, product = jnp.ones((side, side), dtype), jax.jit(lambda a: a @ a)
    return partial(clock, lambda: jax.block_until_ready(product(square))), 2.0 * side**3


def forward_flops(encoder: EncoderConfig, tokens: int) -> float:
    """Multiply-adds of a cell's forward pass, times two."""
    width = encoder.width
    token = encoder.blocks * (4 * width**2 + 3 * width * encoder.ffn + 2 * tokens * width) + 3 * width**2
    return 2.0 * tokens * token


if __name__ == "__main__":
    main()
