"""RNA and chromatin of different cells in one model: how near do their embeddings lie, and do shared gene rows earn it?

    python tests/benchmarks/unpaired.py [--steps 300] [--cells 2000]

Simulated cells (`mofm.omics.simulate`), split so that each has one modality; the model is trained on both without any
pair. Judged on other cells of the same network, of which both modalities are known:
- transfer: types of ATAC cells, by the vote of their 15 nearest RNA cells. The types' names were never seen.
- FOSCTTM: 0 is perfect, 0.5 chance.
- types, probe: how well types read off the ATAC embedding by itself.
- mixing: of the two omics within types, the embeddings as they are (0: apart, 1: as if shuffled); the others centre each.
Beside it: the same model with every peak linked to the genes of another, random peak (no shared identity); two models
trained apart; and the linear baseline: gene activity (peak counts summed by the same links), log1p CP10k, projected on
principal components of the RNA, each side scaled gene by gene.
"""

import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from common import machine, parser, show

from mofm.batches import spaces
from mofm.configs import demo
from mofm.corpus.ingest import ingest
from mofm.evaluation import annotation, baselines
from mofm.evaluation.integration import batch_mixing_within
from mofm.evaluation.pairing import foscttm
from mofm.inference.model import load
from mofm.linear.components import link_matrix
from mofm.omics.genome import gene_table
from mofm.omics.simulate import (
    MultiomicsConfig,
    SimulationConfig,
    simulate_multiomics,
    split_unpaired,
    to_mudata,
    write_mudata,
)
from mofm.training.config import build_config
from mofm.training.loop import train


def main() -> None:
    """Run and print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--cells", type=int, default=2_000)
    args = arguments.parse_args()
    print(machine(), flush=True)
    config = MultiomicsConfig(cells=SimulationConfig(cells=args.cells, seed=21))
    omics = simulate_multiomics(config, ("rna", "atac"))
    half = args.cells // 2
    train_on = split_unpaired({name: adata[:half].copy() for name, adata in omics.items()})
    judged = {name: adata[half:].copy() for name, adata in omics.items()}
    rows = []

    def found(model: str, embeddings: dict[str, np.ndarray]) -> None:
        rows.append({"model": model} | judge(embeddings, judged))
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_mudata(to_mudata(train_on), folder / "train.h5mu")
        for name, adata in judged.items():
            adata.write_h5ad(folder / f"{name}.h5ad")
        for name, adata in train_on.items():
            adata.write_h5ad(folder / f"train_{name}.h5ad")
        found("linear: gene activity on PCA (30)", linear(train_on, judged))
        for steps in (1, args.steps):
            found(f"together, {steps} steps", together(folder, steps))
        found(f"apart, {args.steps} steps", apart(folder, args.steps))
        with shuffled_links():
            found(f"together, random links, {args.steps} steps", together(folder, args.steps))
    show(f"Unpaired RNA and ATAC, {half} cells to train on, {len(judged['rna'])} judged", rows)


def together(folder: Path, steps: int) -> dict[str, np.ndarray]:
    """Embeddings of the judged cells by one model of both modalities."""
    model = trained(folder, [folder / "train.h5mu"], steps)
    return {name: embedded(model, folder, name) for name in ("rna", "atac")}


def apart(folder: Path, steps: int) -> dict[str, np.ndarray]:
    """The same by a model of each."""
    names = ("rna", "atac")
    return {name: embedded(trained(folder, [folder / f"train_{name}.h5ad"], steps), folder, name) for name in names}


def trained(folder: Path, inputs: list[Path], steps: int):
    """A model of configs/demo.py."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        corpus = Path(place) / "corpus"
        ingest(inputs, corpus, unpaired=True)
        values = demo.get_config()
        values.data.corpus, values.run.steps = str(corpus), steps
        train(build_config(values, ["data.holdout_fraction=0.1"]), Path(place) / "run", quiet=True)
        return load(Path(place) / "run")


def embedded(model, folder: Path, name: str) -> np.ndarray:
    """The judged cells' embedding in one modality."""
    return model.embed_all(folder / f"{name}.h5ad", quiet=True)[name].embedding_NE


def linear(train_on, judged) -> dict[str, np.ndarray]:
    """The baseline."""
    genes = {name: row for row, name in enumerate(judged["rna"].var_names)}
    activity = {}
    for side, omics in (("train", train_on), ("judged", judged)):
        atac = omics["atac"]
        found = spaces.identities("atac", list(atac.var_names), gene_table("human"))
        activity[side] = sp.csr_matrix(atac.X @ link_matrix(spaces.make_space(found, genes), len(genes)))
    fitted = baselines.pca_embedding(sp.csr_matrix(train_on["rna"].X), sp.csr_matrix(judged["rna"].X), 30)
    rna = _scaled(sp.csr_matrix(train_on["rna"].X), sp.csr_matrix(judged["rna"].X), fitted.genes)
    axes = np.linalg.lstsq(rna, fitted.test_ND, rcond=None)[0]
    atac = _scaled(activity["train"], activity["judged"], fitted.genes)
    return {"rna": rna @ axes, "atac": atac @ axes}


def _scaled(train: sp.csr_matrix, test: sp.csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Test cells' log1p CP10k of some genes, each less its mean and by its deviation among the training cells."""
    train, test = (baselines.log_normalised(x)[:, genes].toarray() for x in (train, test))
    scale = train.std(axis=0) + 1e-3
    return np.clip((test - train.mean(axis=0)) / scale, -10, 10)


def judge(found: dict[str, np.ndarray], judged) -> dict[str, float]:
    """Scores; each modality is centred on its own mean, but for mixing."""
    rna, atac = (found[name] - found[name].mean(axis=0) for name in ("rna", "atac"))
    types = judged["rna"].obs["cell_type"].astype(str).to_numpy()
    probe = annotation.cross_validated(atac, types)
    both, omics = np.concatenate([found["rna"], found["atac"]]), np.repeat(["rna", "atac"], len(types))
    return {
        "transfer RNA to ATAC": annotation.knn_accuracy(rna, types, atac, types).accuracy.value,
        "FOSCTTM": foscttm(rna, atac),
        "ATAC types, probe": probe.probe_accuracy.mean,
        "mixing": batch_mixing_within(both, omics, np.tile(types, 2)).score,
    }


class shuffled_links:
    """Within this context a region speaks of the genes of another, chosen at random."""

    def __enter__(self):
        self._plain = spaces.make_space

        def shuffled(found, row_of):
            order = np.random.default_rng(len(found.place_FP)).permutation(len(found.place_FP))
            feature_E = order[found.feature_E]
            by_feature = np.argsort(feature_E, kind="stable")
            parts = (leaf[by_feature] for leaf in (feature_E, found.identity_E, found.weight_E))
            return self._plain(spaces.Identities(*parts, found.place_FP, found.name_F), row_of)

        spaces.make_space = shuffled
        from mofm.inference import matching

        matching.make_space = shuffled

    def __exit__(self, *_):
        from mofm.inference import matching

        spaces.make_space = matching.make_space = self._plain


if __name__ == "__main__":
    main()
