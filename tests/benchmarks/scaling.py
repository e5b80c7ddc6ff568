"""What devices send each other as there are more of them: bytes of collectives, read from the compiled train step.

    python tests/benchmarks/scaling.py [--config configs/small.py] [--cells 8] [--config.encoder.width=256 ...]

Weak scaling: each device has the same cells. On 1, 2, 4 and 8 pretended devices of the CPU the step is compiled, along data
alone, fsdp alone and both; nothing runs, and nothing is said of time. What one device sends must not grow but by (n - 1) / n:
gradients along data, gathered weights and scattered gradients along fsdp. Were it to grow with n, something that belongs to
one device would be sent to all. (A CPU's XLA chooses other collectives than a TPU's: for those see `mofm plan`.)
"""

import json
from pathlib import Path

import jax
from common import machine, parser, show

from mofm.parallel.mesh import MeshConfig, make_mesh
from mofm.planning.collectives import sent
from mofm.planning.hlo import parse
from mofm.planning.shapes import NO_CORPUS, find_facts, make_step
from mofm.training.config import load_config

DEVICES = (1, 2, 4, 8)


def main() -> None:
    """Compile and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--config", default=str(Path(__file__).parents[2] / "configs" / "small.py"))
    arguments.add_argument("--cells", type=int, default=8, help="of each device")
    arguments.add_argument("--genes", type=int, default=2_000)
    args, rest = arguments.parse_known_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    overrides = [word.removeprefix("--config.") for word in rest]
    rows = []
    for devices in DEVICES:
        config = load_config(args.config, [*overrides, f"data.batch_size={args.cells * devices}"], corpus=NO_CORPUS)
        facts = find_facts(config, {"rna": args.genes}, None)
        halves = (devices // 2, 2) if devices > 2 else None
        for data, fsdp in filter(None, ((devices, 1), (1, devices) if devices > 1 else None, halves)):
            mesh = make_mesh(MeshConfig(data, fsdp, 1), jax.devices()[:devices])
            step = make_step(config, facts, mesh)
            with jax.set_mesh(mesh):
                text = jax.jit(step.function, donate_argnums=1).lower(*step.arguments).compile().as_text()
            found = sent(parse(text), dict(mesh.shape))
            row = {"devices": devices, "data": data, "fsdp": fsdp}
            row |= {f"MB along {axes}": 0.0 for axes in ("data", "fsdp", "data+fsdp")}
            for one in found:
                row[f"MB along {one.axes}"] = row.get(f"MB along {one.axes}", 0.0) + one.bytes / 1e6
            rows.append(row)
    print(machine())
    show(f"what a device sends in a step, {args.cells} cells of each, {args.genes:,} genes", rows)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
