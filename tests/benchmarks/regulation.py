"""Does a regulatory network in the pretraining earn its place: held-out edges, their signs, and held-out cells?

    python tests/benchmarks/regulation.py [--seeds 5] [--cells 6000] [--steps 300] [--only simulated|kang] [--confidences A B]

simulated: cells of a known network of 50 TFs and 1,000 genes (20 types, 10,000 UMIs, so that regulation can be seen at
all), a fifth of its edges and a tenth of its TFs held out. kang: PBMC, control and stimulated, with DoRothEA (MOFM_DATA).
Edges are ranked against pairs of the same TF with the target of another held-out edge, which degrees do not tell apart.
Beside the model trained with the network ("together"):
- degrees: out-degree x in-degree of the training edges. Against pairs drawn evenly from all, as papers draw them, it is
  the figure in the column "even pairs", which says what that column is worth;
- Pearson of the two mRNAs; GENIE3 (random forests, fewer trees than the original's 1,000); regulon: Pearson of the target
  with the signed mean of the TF's known targets;
- encoder alone: trained without the network, its gene rows compared;
- network alone: graph network and link scorer without cells, from random rows; and on rows that are principal components;
- rewired: together with a network whose edges are swapped, degrees kept, judged on the true network's held-out edges.
Columns: AUROC of held-out edges (existence), balanced accuracy of their signs, the same of TFs of which no edge was seen,
AUROC against even pairs, share of right directions between TFs, and nats a hidden count of held-out cells is better
predicted than by the mean predictor.
"""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import scipy.sparse as sp
from common import config_of, machine, parser, real_data, show

from mofm.batches.spaces import corpus_spaces
from mofm.configs import demo
from mofm.corpus.ingest import ingest
from mofm.corpus.store import open_corpus
from mofm.errors import InputError
from mofm.evaluation.regulation import direction_accuracy, edge_scores, sign_accuracy
from mofm.evaluation.regulation_baselines import degree_scores, pearson_scores, regulon_scores
from mofm.evaluation.tree_baselines import tree_scores
from mofm.inference.model import PretrainedModel, load
from mofm.linear.components import Cells, fit_components
from mofm.nn import model
from mofm.nn.spec import EncoderConfig, ModelSpec
from mofm.objectives.link_prediction import ask, link_prediction
from mofm.omics.genome import gene_table
from mofm.omics.network_splits import HELD_OUT_EDGE, HELD_OUT_TF, matched_negatives, rewired, uniform_negatives
from mofm.omics.simulate import SimulationConfig, simulate
from mofm.training.loop import train
from mofm.training.network import RunNetwork, read_network

SIZE = ["encoder.width=64", "encoder.heads=2", "encoder.ffn=128", "encoder.cell_width=64"]
HELD_OUT = ["network.held_out_edges=0.2", "network.held_out_tfs=0.1"]
LINK_STEPS, LINK_RATE = 300, 1e-3

Score = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(tf, target) -> (how likely an edge, real; its sign, real)."""


class Task(NamedTuple):
    """A corpus, how a config names its network and the rewired one, and what the baselines need of both."""

    corpus: Path
    told: list[str]
    rewired: list[str]
    network: RunNetwork
    values_NG: sp.csr_matrix
    components_GK: np.ndarray
    genes: int
    seed: int


def main() -> None:
    """Run and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--cells", type=int, default=6_000)
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--trees", type=int, default=50, help="of GENIE3; 0 leaves it out")
    arguments.add_argument("--confidences", nargs="+", default=[], help="of DoRothEA, such as A B (default: all)")
    arguments.add_argument("--only", choices=("simulated", "kang"))
    args = arguments.parse_args()
    print(machine(), flush=True)
    make = {"simulated": partial(simulated, args.cells), "kang": partial(kang, args.confidences)}
    for name in [args.only] if args.only else make:
        seeds = args.seeds if name == "simulated" else min(args.seeds, 3)
        rows = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows += [{"seed": seed} | row for row in judge(make[name](Path(folder), seed), args)]
            print(json.dumps(rows[-1]), flush=True)
        show(f"{name}, {args.steps} steps, {seeds} seeds, mean ± sd", summary(rows))
        print(json.dumps({"benchmark": f"regulation, {name}", "rows": rows}))


def summary(rows: list[dict]) -> list[dict]:
    """A row a method, in the order in which they were judged."""
    frame = pd.DataFrame(rows).drop(columns="seed")
    grouped = frame.groupby("method", sort=False)
    spread = zip(grouped.mean().iterrows(), grouped.std().iterrows(), strict=True)
    return [
        {"method": method}
        | {name: f"{mean[name]:.3f} ± {sd[name]:.3f}" for name in mean.index if np.isfinite(mean[name])}
        for (method, mean), (_, sd) in spread
    ]


def simulated(cells: int, folder: Path, seed: int) -> Task:
    """Deeply sequenced cells of a known network."""
    config = SimulationConfig(
        cells=cells, genes=1_000, tfs=50, cell_types=20, library_size=10_000.0, state_noise=0.2, seed=seed
    )
    adata = simulate(config)
    adata.write_h5ad(folder / "cells.h5ad")
    edges = adata.varp["grn"].tocoo()
    names, other = np.asarray(adata.var_names), edges.row != edges.col
    table = pd.DataFrame({"tf": names[edges.row], "target": names[edges.col], "sign": np.sign(edges.data).astype(int)})
    table[other].to_csv(folder / "network.tsv", sep="\t", index=False)
    return task([folder / "cells.h5ad"], folder / "network.tsv", folder, seed)


def kang(confidences: list[str], folder: Path, seed: int) -> Task:
    """PBMC with DoRothEA."""
    files = [real_data(f"kang_pbmc_{name}.h5ad") for name in ("ctrl", "stim")]
    return task(files, real_data("dorothea_human.tsv.gz"), folder, seed, confidences)


def task(files: list[Path], table: Path, folder: Path, seed: int, confidences: list[str] = ()) -> Task:
    """The corpus of some files, the network as a run of this seed will hold it out, and it rewired."""
    ingest(files, folder / "corpus")
    genes, _ = corpus_spaces(open_corpus(folder / "corpus"))
    told = [f"network.tables=['{table}']", f"network.confidences={list(confidences)}"]
    config = config_of(folder / "corpus", [*told, *HELD_OUT], demo)
    network = read_network(config.network, genes, gene_table("human"), seed)
    swapped = rewired(network.edges.drop(columns="split"), seed)
    names = genes["id"].to_numpy()
    swapped = swapped.assign(tf=names[swapped["tf"]], target=names[swapped["target"]])
    swapped[["tf", "target", "sign"]].to_csv(folder / "rewired.tsv", sep="\t", index=False)
    cells = read(files, genes)
    components = fit_components(cells, 64)
    swapped_too = [f"network.tables=['{folder / 'rewired.tsv'}']"]
    values_NG, rows_GK = cells.values_NG, components.rows_GK
    return Task(folder / "corpus", told, swapped_too, network, values_NG, rows_GK, len(genes), seed)


def read(files: list[Path], genes: pd.DataFrame) -> Cells:
    """All cells of the files, a column a gene of the model; the names of these files are ids or symbols of it."""
    column = {name: row for names in (genes["symbol"], genes["id"]) for row, name in enumerate(names)}
    parts, datasets = [], []
    for number, path in enumerate(files):
        adata = ad.read_h5ad(path)
        place = [column.get(name, -1) for name in adata.var_names]
        known = np.flatnonzero(np.array(place) >= 0)
        to_model = sp.csr_matrix((np.ones(len(known)), (known, np.array(place)[known])), (adata.n_vars, len(genes)))
        parts.append(sp.csr_matrix(adata.X, dtype=np.float64) @ to_model)
        datasets.append(np.full(adata.n_obs, number))
    counts_NG = sp.csr_matrix(sp.vstack(parts))
    library_N = np.asarray(counts_NG.sum(axis=1)).ravel()
    values_NG = counts_NG.copy()
    values_NG.data = np.log1p(values_NG.data / np.repeat(library_N, np.diff(values_NG.indptr)) * 1e4)
    return Cells(values_NG, counts_NG, library_N, np.concatenate(datasets))


def judge(given: Task, args) -> list[dict]:
    """A row for each method."""
    methods: dict[str, Score] = {
        "degrees": lambda tf, target: (degree_scores(known_edges(given), given.genes, tf, target), np.ones(len(tf))),
        "Pearson": lambda tf, target: signed(pearson_scores(given.values_NG, tf, target)),
    }
    if args.trees:
        methods[f"GENIE3, {args.trees} trees"] = genie3(given, args.trees)
    methods["regulon"] = lambda tf, target: signed(regulon_scores(given.values_NG, known_edges(given), tf, target))
    methods["components compared"] = rows_compared(given.components_GK)
    methods["network alone"] = links_alone(given, None)
    methods["network on components"] = links_alone(given, given.components_GK)
    gains = {}
    for name, told in (("encoder alone", []), ("rewired", given.rewired), ("together", given.told)):
        trained, gains[name] = pretrained(given, told, args.steps)
        width = given.components_GK.shape[1]
        rows_GD = np.asarray(trained.states.rows_GD)[: given.genes, :width]
        methods[name] = links_of(trained) if told else rows_compared(rows_GD)
    return [{"method": name} | scores(given, score) | gains.get(name, {}) for name, score in methods.items()]


def scores(given: Task, score: Score) -> dict[str, float]:
    """The columns of a method."""
    edges, found = given.network.edges, {}
    known = (edges["tf"].to_numpy(), edges["target"].to_numpy())
    for split, name in ((HELD_OUT_EDGE, "edges"), (HELD_OUT_TF, "new TFs")):
        part = edges[edges["split"] == split]
        ends = part["tf"].to_numpy(), part["target"].to_numpy()
        none = matched_negatives(ends, ends, known, given.genes, given.seed)
        none = tuple(end[none[0] >= 0] for end in none)
        even = uniform_negatives(len(part), np.unique(ends[0]), known, given.genes, given.seed)
        exists, sign = score(*ends)
        ranked = edge_scores(exists, score(*none)[0])
        found |= {f"{name}, AUROC": ranked["auroc"], f"{name}, early precision": ranked["early_precision"]}
        found |= {f"{name}, sign": sign_accuracy(sign, part["sign"].to_numpy())}
        evenly = score(*even)[0]
        if np.isfinite(evenly).all():  # GENIE3 is not asked of every target
            found |= {f"{name}, even pairs": edge_scores(exists, evenly)["auroc"]}
    return found | {"direction": directions(edges, score)}


def directions(edges: pd.DataFrame, score: Score) -> float:
    """Of held-out edges between TFs that do not regulate each other both ways."""
    pairs = set(zip(edges["tf"], edges["target"], strict=True))
    between = edges[(edges["split"] != "train") & edges["target"].isin(edges["tf"])]
    one_way = [(target, tf) not in pairs for tf, target in zip(between["tf"], between["target"], strict=True)]
    between = between[one_way]
    tf, target = between["tf"].to_numpy(), between["target"].to_numpy()
    try:
        return direction_accuracy(score(tf, target)[0], score(target, tf)[0])
    except InputError:
        return float("nan")


def known_edges(given: Task) -> pd.DataFrame:
    return given.network.edges[given.network.edges["split"] == "train"]


def signed(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(score), score


def rows_compared(rows_GK: np.ndarray) -> Score:
    """Edges are where rows go together or oppose each other; a target's size is kept, as by the link scorer."""
    unit_GK = rows_GK / np.maximum(np.linalg.norm(rows_GK, axis=1, keepdims=True), 1e-9)
    return lambda tf, target: signed(np.sum(unit_GK[tf] * rows_GK[target], axis=1))


def genie3(given: Task, trees: int) -> Score:
    """Importances of TFs for the targets of held-out edges; NaN for others. Signs are Pearson's."""
    edges = given.network.edges
    tfs = np.unique(edges["tf"])
    targets = np.unique(edges["target"][edges["split"] != "train"])
    importance_TU = tree_scores(given.values_NG, tfs, targets, seed=given.seed, n_jobs=2, trees=trees)
    row, column = np.zeros(given.genes, int), np.full(given.genes, -1)
    row[tfs], column[targets] = np.arange(len(tfs)), np.arange(len(targets))

    def score(tf, target):
        known = column[target] >= 0
        exists = np.where(known, importance_TU[row[tf], column[target]], np.nan)
        return exists, pearson_scores(given.values_NG, tf, target)

    return score


def links_of(trained: PretrainedModel) -> Score:
    """A model's own answers, in its first network."""

    def score(tf, target):
        logit_QA = model.score_links(
            trained.spec, trained.params, trained.states, tf, target, np.zeros(len(tf), np.int32)
        )
        return np.asarray(jnp.logaddexp(*logit_QA.T)), np.asarray(logit_QA[:, 0] - logit_QA[:, 1])

    return score


def links_alone(given: Task, rows_GK: np.ndarray | None) -> Score:
    """Graph network and link scorer trained for links alone, from random rows or from the given ones."""
    encoder = EncoderConfig(width=64, blocks=1, heads=1, ffn=8, cell_width=8, compute_dtype="float32")
    spec = ModelSpec(encoder, given.genes, relations=len(given.network.relations))
    graph = jax.tree.map(jnp.asarray, given.network.graph(spec.genes))
    fresh = jax.jit(partial(model.init, spec))(jax.random.key(given.seed))
    params = {name: fresh[name] for name in ("genes", "links")}
    if rows_GK is not None:
        params["genes"]["table"] = params["genes"]["table"].at[: given.genes, : rows_GK.shape[1]].add(rows_GK)
    optimizer = optax.adam(optax.cosine_decay_schedule(LINK_RATE, LINK_STEPS))

    def loss(params, key):
        seen, questions = ask(key, graph, 1024, 0.1)
        genes = model.gene_states(spec, fresh | params, seen)
        logit_QA = model.score_links(spec, fresh | params, genes, *questions[:3])
        return link_prediction(logit_QA, questions)["link_nll"]

    @jax.jit
    def step(params, state, index):
        gradient = jax.grad(loss)(params, jax.random.fold_in(jax.random.key(given.seed), index))
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for index in range(LINK_STEPS):
        params, state = step(params, state, index)
    genes = model.gene_states(spec, fresh | params, graph)

    def score(tf, target):
        logit_QA = model.score_links(spec, fresh | params, genes, tf, target, jnp.zeros(len(tf), jnp.int32))
        return np.asarray(jnp.logaddexp(*logit_QA.T)), np.asarray(logit_QA[:, 0] - logit_QA[:, 1])

    return score


def pretrained(given: Task, told: list[str], steps: int) -> tuple[PretrainedModel, dict[str, float]]:
    """A model trained with that network, or without; and what it gains on held-out cells."""
    schedule = [f"run.steps={steps}", f"run.eval_every={steps}", f"run.checkpoint_every={steps}", "run.eval_cells=600"]
    network = [*told, *HELD_OUT] if told else []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        train(config_of(given.corpus, [*SIZE, *schedule, *network, f"seed={given.seed}"], demo), workdir, quiet=True)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        last = next(line for line in reversed(lines) if "heldout/loss" in line)
        null = last["heldout/rna/null_nll"]
        return load(workdir, step=steps), {
            "token gain": null - last["heldout/rna/token_nll"],
            "cell gain": null - last["heldout/rna/cell_nll"],
        }


if __name__ == "__main__":
    main()
