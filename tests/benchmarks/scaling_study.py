"""What do a larger model and more cells buy: held-out loss and cell types of sizes by corpora, and a curve through them.

    python tests/benchmarks/scaling_study.py [--widths 32 64 128] [--cells 500 2000 8000] [--seeds 2] [--steps 400]
        [--rows FILE.jsonl] [--figure FILE.png]

Cells are simulated (1,000 genes); the smaller corpora are parts of the larger, and the same 1,000 cells are held out of all.
Each model takes the same steps over as many cells, so that a small corpus is gone through more often. Judged at the last
step, so that nothing is chosen by what it is judged on: nats by which a hidden token of the held-out cells is better
predicted than by the mean predictor, and their types by 15 nearest neighbours among the largest corpus' cells.

The curve is nll = floor + (parameters / P)^-a + (cells / C)^-b (Hoffmann et al. 2022), by least squares of logs of the four
scales and exponents; its interval is that of 200 fits to residuals drawn anew. With nine points it says which of the two
is short, not more. Rows are appended to --rows as they are found; those that are there are not computed again.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import jax
import numpy as np
import pandas as pd
from common import Rows, config_of, forget_programs, machine, parser, show
from scipy.optimize import least_squares

from mofm.configs import demo
from mofm.corpus.ingest import ingest
from mofm.evaluation import annotation, baselines
from mofm.evaluation.report import read_metrics
from mofm.inference.model import PretrainedModel, load
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.training.loop import train

HELD_OUT = 1_000
DRAWS = 200


class Curve(NamedTuple):
    """nll = floor + (parameters / params_scale)^-params_power + (cells / cells_scale)^-cells_power."""

    floor: float
    params_scale: float
    params_power: float
    cells_scale: float
    cells_power: float

    def __call__(self, params: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """nll of models of so many parameters trained on so many cells."""
        of_params = (params / self.params_scale) ** -self.params_power
        return self.floor + of_params + (cells / self.cells_scale) ** -self.cells_power


def main() -> None:
    """Train and judge what is missing, fit, and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    arguments.add_argument("--cells", type=int, nargs="+", default=[500, 2_000, 8_000])
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--rows", type=Path, help="a file of JSON lines, where an interrupted benchmark goes on")
    arguments.add_argument("--figure", type=Path, help="draw the points and the curve into this file")
    args = arguments.parse_args()
    print(machine(), flush=True)
    rows = Rows(args.rows)
    adata = simulate(SimulationConfig(cells=max(args.cells) + HELD_OUT, genes=1_000, cell_types=16, seed=11))
    for seed in range(args.seeds):
        for cells in args.cells:
            for width in args.widths:
                if rows.has(seed=seed, cells=cells, width=width):
                    continue
                rows.keep({"seed": seed, "cells": cells, "width": width} | judged(adata, seed, cells, width, args))
                forget_programs()
    table = pd.DataFrame(rows)
    mean = table.drop(columns="seed").groupby(["width", "cells"], as_index=False).mean()
    show(f"{args.steps} steps, mean of {args.seeds} seeds", mean.to_dict("records"))
    show("Types by components of the same cells", components(adata, args.cells))
    curve, draws = fitted(table)
    show("The curve, and the middle 90% of fits to residuals drawn anew", told(curve, draws))
    if args.figure:
        draw(mean, curve, args.figure)
    print(json.dumps({"benchmark": "scaling study", "curve": curve._asdict(), "rows": rows}))


def judged(adata: ad.AnnData, seed: int, cells: int, width: int, args: argparse.Namespace) -> dict[str, float]:
    """Figures of one model on one corpus. Its size: two blocks up to width 64, then one more for each doubling."""
    blocks = 2 + max(0, int(np.log2(width / 64)))
    overrides = [
        f"encoder.width={width}",
        "encoder.heads=2",
        f"encoder.ffn={width * 8 // 3}",
        f"encoder.blocks={blocks}",
    ]
    overrides += ["data.holdout_fraction=0", "data.holdout_datasets=['heldout']", "encoder.cell_width=64"]
    overrides += [f"seed={seed}", f"run.steps={args.steps}", f"run.eval_every={args.steps}"]
    overrides += [f"run.eval_cells={HELD_OUT}", f"optimizer.learning_rate={1e-3 * np.sqrt(64 / width):g}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        heldout, shown = adata[:HELD_OUT], adata[HELD_OUT : HELD_OUT + cells]
        for file, some in (("heldout", heldout), ("shown", shown)):
            ad.AnnData(some.X, some.obs[[]], some.var[[]]).write_h5ad(folder / f"{file}.h5ad")
        # First those that judge: the draws of a cell's tokens hang on its number, and all models are to be asked the same.
        ingest([folder / "heldout.h5ad", folder / "shown.h5ad"], folder / "corpus")
        train(config_of(folder / "corpus", overrides, demo), folder / "run", quiet=True)
        metrics = read_metrics(folder / "run" / "metrics.jsonl")
        last = metrics.dropna(subset="heldout/rna/token_nll").iloc[-1]
        model = load(folder / "run")
        null, nll = last["heldout/rna/null_nll"], last["heldout/rna/token_nll"]
        steps = metrics["time/step"].max()
        return {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
            "nll": nll,
            "nats below the mean predictor": null - nll,
            "types, 15-NN": types_told(model, adata),
            "seconds of steps": steps,
        }


def types_told(model: PretrainedModel, adata: ad.AnnData) -> float:
    """Share of the held-out cells whose type 15 neighbours among all others tell."""
    embedding_NE = model.embed(ad.AnnData(adata.X, adata.obs[[]], adata.var[[]]), quiet=True).embedding_NE
    return _told_by(embedding_NE[HELD_OUT:], embedding_NE[:HELD_OUT], adata)


def components(adata: ad.AnnData, cells: list[int]) -> list[dict[str, float]]:
    """The same of 30 principal components of each corpus."""
    rows = []
    for count in cells:
        fitted_on = adata.X[HELD_OUT : HELD_OUT + count]
        sides = [
            baselines.pca_embedding(fitted_on, some, 30).test_ND for some in (adata.X[HELD_OUT:], adata.X[:HELD_OUT])
        ]
        rows.append({"cells": count, "types, 15-NN": _told_by(*sides, adata)})
    return rows


def _told_by(shown_ND: np.ndarray, heldout_ND: np.ndarray, adata: ad.AnnData) -> float:
    types = adata.obs["cell_type"].to_numpy(str)
    found = annotation.knn_accuracy(shown_ND, types[HELD_OUT:], heldout_ND, types[:HELD_OUT])
    return found.accuracy.value


def fitted(table: pd.DataFrame) -> tuple[Curve, list[Curve]]:
    """The curve through all points, and curves through what it says with residuals drawn anew."""
    params, cells, nll = (table[name].to_numpy(np.float64) for name in ("parameters", "cells", "nll"))
    curve = fit(params, cells, nll)
    rest, rng = nll - curve(params, cells), np.random.default_rng(0)
    return curve, [fit(params, cells, curve(params, cells) + rng.choice(rest, len(rest))) for _ in range(DRAWS)]


def fit(params: np.ndarray, cells: np.ndarray, nll: np.ndarray) -> Curve:
    """Least squares; each power is within .01 and 3, so that a side that tells nothing ends at an end of it."""

    def curve_of(x: np.ndarray) -> Curve:
        return Curve(x[0], *np.exp(x[1:]))

    low, high = np.log([1e-3, 0.01, 1e-3, 0.01]), np.log([1e9, 3, 1e9, 3])
    start = np.array(
        [nll.min() - 0.01, np.log(params.min() / 100), np.log(0.5), np.log(cells.min() / 100), np.log(0.5)]
    )
    bounds = (np.append(0, low), np.append(nll.min(), high))
    return curve_of(least_squares(lambda x: curve_of(x)(params, cells) - nll, start, bounds=bounds, x_scale=1.0).x)


def told(curve: Curve, draws: list[Curve]) -> list[dict[str, object]]:
    """A row for each number of the curve."""
    ends = np.quantile(np.array(draws), (0.05, 0.95), axis=0).T
    return [
        {"": name, "value": f"{value:.4g}", "5%": f"{low:.4g}", "95%": f"{high:.4g}"}
        for name, value, (low, high) in zip(Curve._fields, curve, ends, strict=True)
    ]


def draw(mean: pd.DataFrame, curve: Curve, path: Path) -> None:
    """A line for each size of model over the cells, dots measured and lines fitted."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for width, points in mean.groupby("width"):
        (dots,) = axes.plot(points["cells"], points["nll"], "o", label=f"width {width}")
        cells = np.geomspace(points["cells"].min(), points["cells"].max() * 2, 50)
        axes.plot(cells, curve(points["parameters"].iloc[0], cells), color=dots.get_color())
    axes.set(xscale="log", xlabel="cells of the corpus", ylabel="nats a hidden token, held-out cells")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
