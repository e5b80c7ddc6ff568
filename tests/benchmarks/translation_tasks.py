"""Tasks of translation and alignment with fixed splits, so that whoever is measured is measured on the same cells.

    citeseq     RNA <-> ADT, 500 PBMC; both directions by Pearson
    a549        RNA <-> ATAC, 2,641 cells of one line; AUROC of the 5,000 peaks open in most cells, Pearson of 1,185 genes
    simulated   RNA <-> ATAC, ADT and methylation, of `mofm.omics.simulate`; AUROC and Pearson

Real tasks have five folds by one fixed lot, the simulated one a test set of a quarter. What the training cells show of
themselves is the setting:

    paired      every training cell has all its modalities under one name
    tenth       a tenth of the training cells, by lot, does; the others have one modality each, dealt out evenly
    unpaired    every training cell has all its modalities, each under another name and in another order: as many views
                as in `paired`, and nothing that says which belong together (as GLUE and others are evaluated)

Test cells have all modalities and appear in no training file. Which 5,000 peaks are judged is told by all cells: it is
what the task is, not a thing to fit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import mudata
import numpy as np
from anndata import AnnData
from common import real_data

from mofm.axes import MODALITIES, Modality
from mofm.errors import InputError
from mofm.evaluation.translation import PerFeature, per_feature_auroc, per_feature_correlation
from mofm.evaluation.translation_baselines import measured_of, target_values
from mofm.omics.simulate import MultiomicsConfig, SimulationConfig, simulate_multiomics, to_mudata, write_mudata

Setting = Literal["paired", "tenth", "unpaired"]
SETTINGS: tuple[Setting, ...] = ("paired", "tenth", "unpaired")
NAMES = ("citeseq", "a549", "simulated")
METRICS = {"rna": "Pearson", "adt": "Pearson", "atac": "AUROC", "methylation": "Pearson"}
JUDGED_PEAKS = 5_000
PAIRED_SHARE = 0.1


Direction = tuple[Modality, Modality]
"""Source, target."""
Embeddings = dict[Modality, np.ndarray]
"""Of the test cells in two modalities, the first of them RNA; rows are the cells in the order of the split."""


class Task(NamedTuple):
    """Cells of several modalities, and how they are judged.

    Attributes:
      name: of `NAMES`, or a file's.
      omics: of the same cells in the same order.
      directions: (source, target).
      judged: for each modality, the columns that are judged.
      fold_N: the fold that each cell is tested in.
      label: an obs column whose labels may be transferred; None where there is none.
      build: of the peaks' places; None for that of mofm's gene table.
    """

    name: str
    omics: dict[Modality, AnnData]
    directions: tuple[Direction, ...]
    judged: dict[Modality, np.ndarray]
    fold_N: np.ndarray
    label: str | None
    build: str | None = None

    @property
    def folds(self) -> int:
        """Folds that have test cells."""
        return int(self.fold_N.max()) + 1


class Split(NamedTuple):
    """Attributes: train, what a method may learn from, of cells as the setting shows them; test, all of the test cells."""

    train: dict[Modality, AnnData]
    test: dict[Modality, AnnData]


def task(name: str, cells: int = 4_000, genes: int = 1_000, seed: int = 31) -> Task:
    """A task by name. `cells`, `genes` and `seed` are of the simulated one."""
    if name == "citeseq":
        return of_mudata(name, mudata.read_h5mu(real_data("citeseq_pbmc_500.h5mu")))
    if name == "a549":
        return of_mudata(name, mudata.read_h5mu(real_data("a549_scicar.h5mu")), "hours_dex", "GRCh37")
    config = MultiomicsConfig(cells=SimulationConfig(cells=cells, genes=genes, seed=seed))
    omics = simulate_multiomics(config)
    fold_N = np.where(_folds(cells, 4) == 0, 0, -1)  # one test set; the rest is in no fold
    return Task(name, omics, _both_ways(("atac", "adt", "methylation")), _judged(omics), fold_N, "cell_type")


def split(of: Task, setting: Setting, fold: int, seed: int = 0) -> Split:
    """Training cells as the setting shows them, and test cells."""
    test = of.fold_N == fold
    omics = {name: adata[~test].copy() for name, adata in of.omics.items()}
    rng = np.random.default_rng([seed, fold])
    cells = int(np.sum(~test))
    if setting == "tenth":
        order = rng.permutation(cells)
        both, rest = np.split(order, [max(1, round(PAIRED_SHARE * cells))])
        parts = zip(omics, np.array_split(rest, len(omics)), strict=True)
        omics = {name: omics[name][np.sort(np.concatenate([both, part]))].copy() for name, part in parts}
    elif setting == "unpaired":
        for name, adata in omics.items():
            omics[name] = adata[rng.permutation(cells)].copy()
            omics[name].obs_names = [f"{name}-{number}" for number in range(cells)]
    return Split(omics, {name: adata[test].copy() for name, adata in of.omics.items()})


def write(one: Split, folder: Path) -> dict[str, Path]:
    """Files for `mofm ingest` and `mofm embed`: `train` (h5mu), and an h5ad of the test cells in each modality."""
    paths = {"train": folder / "train.h5mu"} | {name: folder / f"test_{name}.h5ad" for name in one.test}
    write_mudata(to_mudata(one.train), paths["train"])
    for name, adata in one.test.items():
        adata.write_h5ad(paths[name])
    return paths


def pairs(one: Split, source: Modality, target: Modality) -> tuple[AnnData, AnnData]:
    """The training cells that are known to have both, in one order; empty where the setting hides all pairs."""
    names = one.train[source].obs_names
    names = names[names.isin(one.train[target].obs_names)]
    return one.train[source][names].copy(), one.train[target][names].copy()


def truth(of: Task, one: Split, target: Modality) -> np.ndarray:
    """The judged values of the test cells."""
    return target_values(target, measured_of(one.test[target]))[:, of.judged[target]]


def judge(of: Task, one: Split, target: Modality, predicted_NF: np.ndarray) -> PerFeature:
    """The score of a prediction of all the target's features, on its scale in `target_values`."""
    score = per_feature_auroc if METRICS[target] == "AUROC" else per_feature_correlation
    return score(truth(of, one, target), predicted_NF[:, of.judged[target]])


def of_mudata(name: str, mdata: mudata.MuData, label: str | None = None, build: str | None = None) -> Task:
    """RNA <-> each other modality of the cells that have all of them.

    Raises:
      InputError: no `rna`, nothing beside it, or no cell has all.
    """
    there = [modality for modality in MODALITIES if modality in mdata.mod]
    if "rna" not in there or len(there) < 2:
        raise InputError(f"{name}: needs rna and another of {', '.join(MODALITIES[1:])}; it has {', '.join(mdata.mod)}")
    cells = mdata.mod["rna"].obs_names
    for modality in there:
        cells = cells[cells.isin(mdata.mod[modality].obs_names)]
    if not len(cells):
        raise InputError(f"{name}: no cell has all of {', '.join(there)}")
    omics = {modality: mdata.mod[modality][cells].copy() for modality in there}
    return Task(name, omics, _both_ways(there[1:]), _judged(omics), _folds(len(cells), 5), label, build)


def _both_ways(others: Sequence[Modality]) -> tuple[Direction, ...]:
    return tuple(direction for other in others for direction in (("rna", other), (other, "rna")))


def _folds(cells: int, folds: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(cells) % folds


def _judged(omics: Mapping[Modality, AnnData]) -> dict[Modality, np.ndarray]:
    judged = {name: np.arange(adata.n_vars) for name, adata in omics.items()}
    if "atac" in omics:
        cells_F = np.asarray((omics["atac"].X > 0).sum(axis=0)).ravel()
        judged["atac"] = np.sort(np.argsort(-cells_F, kind="stable")[:JUDGED_PEAKS])
    return judged
