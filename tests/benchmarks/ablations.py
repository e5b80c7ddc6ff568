"""What is each objective worth: the whole model against the same without one of them, some seeds each.

    MOFM_DATA=FOLDER python tests/benchmarks/ablations.py [--data simulated citeseq] [--seeds 3] [--steps 200]
        [--variants WORDS] [--rows FILE.jsonl]

simulated: RNA and chromatin of cells of a known network, in three batches. Network, split and training are another's for each
seed. citeseq: RNA and antibodies of 500 PBMC; split and training differ. In both, a tenth of the training cells is known
to be paired and of the others one modality is shown each; judged are cells of whom nothing was shown.

The whole model is `configs/paper.py`, small. Without:
    links of features    each region or protein speaks of genes that belong to another: nothing but its own row is its own
    network              masked modelling alone makes the gene rows
    translation          no pair teaches a translator; what is told is the linear start's
    round trip           nobody goes there and back again
    contrast, structure  views of one cell are not brought together
    invariance           batches and depth are let into the embedding, from its start on
    pairs                no pair is known
    training             a single step too small to change anything: the linear start of all of the above

Every row is `mofm evaluate`'s; a difference is a variant's less the whole model's of the same seed, ± its standard error
over seeds. Rows are appended to --rows as they are found; those that are there are not computed again.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from common import Rows, config_of, forget_programs, machine, parser, schedule, show
from translation_tasks import Task, split, task

from mofm.axes import Modality
from mofm.configs import paper
from mofm.corpus.ingest import ingest
from mofm.evaluation.evaluate import Settings, evaluate
from mofm.evaluation.evaluation_page import rows_of
from mofm.evaluation.tasks.score import OURS
from mofm.inference.model import load
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics, to_mudata, write_mudata
from mofm.training.loop import train

SIZE = ("encoder.width=32", "encoder.heads=2", "encoder.ffn=88", "encoder.cell_width=32", "encoder.region_rows=1024")
DATA = ("data.tokens=128", "data.batch_size=48")
OF_BATCHES = ("data.batch_key=batch", "objectives.alignment.batch_weight=1.0")
OF_NETWORK = ("network.held_out_edges=0.2", "network.edge_budget=2048")
WITHOUT = {
    "whole": (),
    "links of features": (),
    "network": ("network.tables=[]",),
    "translation": ("objectives.translation_weight=0",),
    "round trip": ("objectives.cycle_weight=0", "objectives.drift_weight=0"),
    "contrast": ("objectives.alignment.contrast_weight=0",),
    "structure": ("objectives.alignment.structure_weight=0",),
    "invariance": ("data.batch_key=None", "objectives.alignment.batch_weight=0", "objectives.alignment.depth_weight=0"),
    "pairs": (),
    "training": schedule(0),
}
"""Variant -> its overrides. Those of none differ in their data."""
SHOWN = {
    "batch mixing within labels",
    "accuracy, 15-NN",
    "accuracy, linear probe",
    "mean AUROC per feature",
    "mean Pearson per feature",
    "FOSCTTM",
    "matching score",
    "AUROC of edges",
    "balanced accuracy of signs",
}
"""Metrics of the table; the JSON has all."""


class Given(NamedTuple):
    """Attributes: train, test: counts of each modality; network: a table of edges, None where none is known; keys: of obs."""

    train: dict[Modality, ad.AnnData]
    test: dict[Modality, ad.AnnData]
    network: Path | None
    keys: dict[str, str]


def main() -> None:
    """Train and judge what is missing, and print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--data", nargs="+", choices=("simulated", "citeseq"), default=("simulated", "citeseq"))
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=200)
    arguments.add_argument("--cells", type=int, default=2_000, help="simulated")
    arguments.add_argument("--genes", type=int, default=600, help="simulated")
    arguments.add_argument("--variants", nargs="+", choices=list(WITHOUT), default=list(WITHOUT))
    arguments.add_argument("--rows", type=Path, help="a file of JSON lines, where an interrupted benchmark goes on")
    args = arguments.parse_args()
    print(machine(), flush=True)
    rows = Rows(args.rows)
    for name in args.data:
        for seed in range(args.seeds):
            for variant in args.variants:
                if rows.has(data=name, seed=seed, variant=variant):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    found = judged(given(name, variant, seed, args, Path(folder)), variant, seed, args, Path(folder))
                rows.keep({"data": name, "seed": seed, "variant": variant, "steps": args.steps} | found)
                forget_programs()
        here = pd.DataFrame([row for row in rows if row["data"] == name])
        steps, seeds = here["steps"].max(), here["seed"].nunique()
        show(f"{name}, {steps} steps, {seeds} seeds: the whole, and differences from it", differences(here))
    print(json.dumps({"benchmark": "ablations", "rows": rows}))


def given(name: str, variant: str, seed: int, args: argparse.Namespace, folder: Path) -> Given:
    """The cells of a seed, as a variant may see them."""
    of = task("citeseq") if name == "citeseq" else simulated(args.cells, args.genes, seed)
    if variant == "links of features":
        of = of._replace(omics={modality: of_others(table, modality, seed) for modality, table in of.omics.items()})
    one = split(of, "unpaired" if variant == "pairs" else "tenth", seed, seed)
    if name == "citeseq":
        return Given(one.train, one.test, None, {})
    network = folder / "network.tsv"
    edges_of(of.omics["rna"]).to_csv(network, sep="\t", index=False)
    return Given(one.train, one.test, network, {"label_key": "cell_type", "batch_key": "batch"})


def simulated(cells: int, genes: int, seed: int) -> Task:
    """Cells of three batches; a quarter is the fold of this seed."""
    config = SimulationConfig(
        cells=cells, genes=genes, tfs=40, library_size=4_000.0, batches=3, batch_effect=0.3, seed=seed
    )
    omics = simulate_multiomics(MultiomicsConfig(cells=config), ("rna", "atac"))
    fold_N = np.full(cells, -1)
    fold_N[np.random.default_rng([7, seed]).permutation(cells)[: cells // 4]] = seed
    return Task("simulated", omics, (), {}, fold_N, "cell_type")


def of_others(table: ad.AnnData, modality: Modality, seed: int) -> ad.AnnData:
    """Its regions or proteins under each other's names, by lot; RNA as it is."""
    if modality == "rna":
        return table
    order = np.random.default_rng([8, seed]).permutation(table.n_vars)
    return ad.AnnData(table.X, table.obs, table.var.iloc[order])


def edges_of(rna: ad.AnnData) -> pd.DataFrame:
    """The network that drove the cells: tf, target, sign."""
    grn, genes = rna.uns["simulation"]["grn"].tocoo(), np.asarray(rna.uns["simulation"]["genes"])
    tfs = np.asarray(rna.uns["simulation"]["tf_names"])
    table = pd.DataFrame({"tf": tfs[grn.row], "target": genes[grn.col], "sign": np.sign(grn.data).astype(int)})
    return table[table["tf"] != table["target"]]


def judged(of: Given, variant: str, seed: int, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """What `mofm evaluate` finds of a variant: "task / modalities / metric" -> value."""
    corpus = corpus_of(of, variant, folder)
    overrides = [*SIZE, *DATA, f"seed={seed}", *schedule(args.steps)]
    if of.keys:
        overrides += OF_BATCHES
    if of.network:
        overrides += [*OF_NETWORK, f"network.tables=['{of.network}']"]
    train(config_of(corpus, [*overrides, *WITHOUT[variant]], paper), folder / "run", quiet=True)
    write_mudata(to_mudata(of.test), folder / "test.h5mu")
    network = of.network if variant != "network" else None
    tasks = ["translation", "matching"] + ["integration", "annotation"] * bool(of.keys) + ["regulation"] * bool(network)
    settings = Settings(tuple(tasks), **of.keys, network=network, bootstrap=100, umap=False)
    found = evaluate(load(folder / "run"), folder / "test.h5mu", settings, quiet=True)
    return {f"{row.task} / {row.of} / {row.metric}": row.value for row in rows_of(found) if row.method == OURS}


def corpus_of(of: Given, variant: str, folder: Path) -> Path:
    """The training cells, ingested."""
    write_mudata(to_mudata(of.train), folder / "train.h5mu")
    ingest([folder / "train.h5mu"], folder / "corpus", unpaired=variant == "pairs")
    return folder / "corpus"


def differences(rows: pd.DataFrame) -> list[dict[str, object]]:
    """A row a metric. Of the whole, mean ± sd over seeds; of the others, mean difference ± its standard error."""
    table = rows.drop(columns=["data", "steps"]).set_index(["variant", "seed"])
    table = table[[name for name in table.columns if name.rpartition(" / ")[2] in SHOWN]]
    whole, shown = table.loc["whole"], [{"metric": name} for name in table.columns]
    for variant in table.index.unique("variant"):
        if variant == "whole":
            values, error, sign, title = whole, whole.std(), "", "the whole"
        else:
            values = table.loc[variant] - whole
            error, sign, title = values.std() / np.sqrt(values.count()), "+", f"without {variant}"
        for row, (name, mean) in zip(shown, values.mean().items(), strict=True):
            row[title] = "-" if np.isnan(mean) else f"{mean:{sign}.3f} ± {error[name]:.3f}"
    return shown


if __name__ == "__main__":
    main()
