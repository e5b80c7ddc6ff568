"""Are the regulators right? TF activities, edges in context and knock-outs of `mofm regulators` and `mofm perturb`.

    python tests/benchmarks/regulators.py [--seeds 1 2] [--steps 200] [--cells 6000]

Simulated cells of a known network (20 types, 10,000 UMIs), a fifth of its edges held out of training; judged on 800 other
cells of the same network, 128 of them perturbed. Seed 0 is where the recipes in mofm/inference/activities.py,
regulators.py and perturb.py were chosen, so it is not among those judged.
- activity: mean over TFs of the correlation with the true activity, over all cells and within types, beside the signed mean
  of the TF's known targets and its own mRNA.
- edges: average precision of |score| for true contributions above .1 nats (effect * (mean activity of the TF in the type less
  that over all cells)), of all pairs and of those that training was not told; beside known edges by the signed mean.
- knock-outs of the 10 TFs of most edges: AUROC of |shift| for the true direct targets, and balanced accuracy of its sign,
  over all targets and over the held-out ones.
"""

import json
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from common import config_of, machine, parser, show
from sklearn.metrics import average_precision_score, roc_auc_score

from mofm.configs import demo
from mofm.corpus.ingest import ingest
from mofm.evaluation.regulation import sign_accuracy
from mofm.evaluation.regulation_baselines import tf_activities
from mofm.inference.model import PretrainedModel, load
from mofm.inference.perturb import Change, perturb
from mofm.inference.regulators import regulators
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.training.loop import train

SIZE = ["encoder.width=64", "encoder.heads=2", "encoder.ffn=128", "encoder.cell_width=64", "network.held_out_edges=0.2"]
JUDGED, KNOCKED_OUT, PERTURBED = 800, 10, 128
CONTRIBUTES = 0.1
"""Nats: a contribution above this is there."""


def main() -> None:
    """Run and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--cells", type=int, default=6_000)
    arguments.add_argument("--steps", type=int, default=200)
    args = arguments.parse_args()
    print(machine(), flush=True)
    tables: dict[str, list[pd.DataFrame]] = {"activity": [], "edges": [], "knock-outs": []}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            trained, judged, path = prepare(Path(folder), args.cells, args.steps, seed)
            for name, rows in judge(trained, judged, path).items():
                tables[name].append(pd.DataFrame(rows).set_index("method"))
    for name, parts in tables.items():
        mean = sum(parts) / len(parts)
        rows = [{"method": method} | row.to_dict() for method, row in mean.iterrows()]
        show(f"{name}, mean of {len(parts)} simulations, {args.steps} steps", rows)
        print(json.dumps({"benchmark": f"regulators, {name}", "rows": rows}))


def prepare(folder: Path, cells: int, steps: int, seed: int) -> tuple[PretrainedModel, ad.AnnData, Path]:
    """A model of some cells of a network, and other cells of it with their file."""
    config = {"genes": 1_000, "tfs": 50, "cell_types": 20, "library_size": 10_000.0, "state_noise": 0.2, "seed": seed}
    shown = simulate(SimulationConfig(cells=cells, **config))
    judged = simulate(SimulationConfig(cells=JUDGED, part=1, **config))
    shown.write_h5ad(folder / "shown.h5ad")
    judged.write_h5ad(folder / "judged.h5ad")
    judged[:PERTURBED].copy().write_h5ad(folder / "perturbed.h5ad")
    edges, names = shown.varp["grn"].tocoo(), np.asarray(shown.var_names)
    table = pd.DataFrame({"tf": names[edges.row], "target": names[edges.col], "sign": np.sign(edges.data).astype(int)})
    table[edges.row != edges.col].to_csv(folder / "network.tsv", sep="\t", index=False)
    ingest([folder / "shown.h5ad"], folder / "corpus")
    schedule = [f"run.steps={steps}", f"run.eval_every={steps}", f"run.checkpoint_every={steps}"]
    network = f"network.tables=['{folder / 'network.tsv'}']"
    train(config_of(folder / "corpus", [*SIZE, *schedule, network, f"seed={seed}"], demo), folder / "run", quiet=True)
    return load(folder / "run"), judged, folder / "judged.h5ad"


def judge(trained: PretrainedModel, judged: ad.AnnData, path: Path) -> dict[str, list[dict]]:
    """The rows of the three tables."""
    genes = judged.var_names.get_indexer(trained.genes["id"])  # the model's rows among the file's columns
    effect_GG = np.asarray(judged.varp["grn"].todense())[np.ix_(genes, genes)]
    np.fill_diagonal(effect_GG, 0)
    order = pd.Index(judged.uns["simulation"]["tf_names"])
    found = regulators(trained, path, "cell_type", top=10**9, quiet=True)
    tfs = trained.genes["id"].to_numpy()[np.unique(trained.network.edges["tf"])]
    truth_NT = np.asarray(judged.obsm["tf_activity"])[:, order.get_indexer(tfs)]
    types = judged.obs["cell_type"].to_numpy()

    values = sp.csr_matrix(judged.X, dtype=np.float64)[:, genes]
    depth_N = np.asarray(values.sum(axis=1)).ravel()
    values.data = np.log1p(values.data / np.repeat(depth_N, np.diff(values.indptr)) * 1e4)
    told = trained.network.edges[trained.network.edges["split"] == "train"]
    activities = {"signed mean of known targets": told_activities(values, trained, told, tfs)}
    activities["own mRNA"] = values[:, trained.genes["id"].isin(tfs).to_numpy()].toarray()
    activities["mofm"] = found.activity_NT
    activity = [{"method": name} | correlations(x, truth_NT, types) for name, x in activities.items()]
    return {
        "activity": activity,
        "edges": edges_in_context(trained, found, activities, effect_GG, truth_NT, types),
        "knock-outs": knock_outs(trained, path.with_name("perturbed.h5ad"), effect_GG),
    }


def told_activities(values, trained: PretrainedModel, told: pd.DataFrame, tfs: np.ndarray) -> np.ndarray:
    """Of the baseline, in the order of `tfs`; 0 for a TF without edges."""
    found = tf_activities(values, told)
    place = pd.Index(trained.genes["id"].to_numpy()[found.tfs]).get_indexer(tfs)
    return np.where(place >= 0, found.activity_NT[:, place], 0.0)


def correlations(x_NT: np.ndarray, truth_NT: np.ndarray, types: np.ndarray) -> dict[str, float]:
    """Mean over TFs of Pearson's r, over all cells and of deviations from the types' means."""

    def mean_r(a, b):
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        return float(np.mean(np.divide((a * b).sum(axis=0), size, out=np.zeros(len(size)), where=size > 1e-9)))

    within = [x - pd.DataFrame(x).groupby(types).transform("mean").to_numpy() for x in (x_NT, truth_NT)]
    return {"r, all cells": mean_r(x_NT, truth_NT), "r, within types": mean_r(*within)}


def edges_in_context(trained, found, activities, effect_GG, truth_NT, types) -> list[dict]:
    """Average precision, mean over types; pairs whose target is a TF are left out, as their effects are no log rates."""
    ids = pd.Index(trained.genes["id"])
    tf_rows = np.unique(trained.network.edges["tf"])
    is_target_G = ~np.isin(np.arange(len(ids)), tf_rows)
    told = trained.network.edges[trained.network.edges["split"] == "train"]
    sign_TG = np.zeros((len(tf_rows), len(ids)))
    sign_TG[np.searchsorted(tf_rows, told["tf"]), told["target"]] = told["sign"]
    baseline = activities["signed mean of known targets"]
    baseline = (baseline - baseline.mean(axis=0)) / np.maximum(baseline.std(axis=0), 1e-9)
    rows = {"known edges, signed mean": [], "mofm": []}
    for name in found.groups.names:
        mine = types == name
        shift_T = truth_NT[mine].mean(axis=0) - truth_NT.mean(axis=0)
        is_there = np.abs(shift_T[:, None] * effect_GG[tf_rows]) > CONTRIBUTES
        edges = found.edges[found.edges["group"] == name]
        score_TG = np.zeros_like(sign_TG)
        places = np.searchsorted(tf_rows, ids.get_indexer(edges["tf_id"])), ids.get_indexer(edges["target_id"])
        score_TG[places] = np.abs(edges["score"])
        simple_TG = np.abs(sign_TG * baseline[mine].mean(axis=0)[:, None])
        for method, score in (("known edges, signed mean", simple_TG), ("mofm", score_TG)):
            asked = {"all pairs": is_target_G & np.ones_like(is_there), "not told": is_target_G & (sign_TG == 0)}
            rows[method].append(
                {part: average_precision_score(is_there[which], score[which]) for part, which in asked.items()}
                | {f"{part}, by chance": float(is_there[which].mean()) for part, which in asked.items()}
            )
    return [{"method": method} | pd.DataFrame(some).mean().to_dict() for method, some in rows.items()]


def knock_outs(trained: PretrainedModel, path: Path, effect_GG: np.ndarray) -> list[dict]:
    """The TFs of most edges, one after another, in all cells of a file."""
    ids, edges = pd.Index(trained.genes["id"]), trained.network.edges
    rows = {name: {"all targets": [], "held out": []} for name in ("network", "model")}
    chosen = edges["tf"].value_counts(sort=True).index[:KNOCKED_OUT]
    for tf in chosen:
        genes = perturb(trained, path, [Change(ids[tf])], quiet=True).genes
        shift = genes.set_index("gene_id").loc[ids]
        known = set(edges["target"][(edges["tf"] == tf) & (edges["split"] == "train")])
        is_none = (effect_GG[tf] == 0) & (np.arange(len(ids)) != tf)
        for part, is_target in (
            ("all targets", effect_GG[tf] != 0),
            ("held out", (effect_GG[tf] != 0) & ~np.isin(np.arange(len(ids)), list(known))),
        ):
            for name in rows:
                x = shift[name].to_numpy()
                asked = is_target | (is_none & ~np.isin(np.arange(len(ids)), list(known)))
                rows[name][part].append(
                    (roc_auc_score(is_target[asked], np.abs(x[asked])), x[is_target], -effect_GG[tf][is_target])
                )
    table = []
    for name, parts in rows.items():
        row = {"method": name}
        for part, some in parts.items():
            said, sign = (np.concatenate([one[place] for one in some]) for place in (1, 2))
            row |= {f"{part}, AUROC": float(np.mean([one[0] for one in some]))}
            row |= {f"{part}, sign": sign_accuracy(said, np.sign(sign).astype(int))}
        table.append(row)
    return table


if __name__ == "__main__":
    main()
