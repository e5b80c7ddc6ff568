"""Calls `peer_methods.py` in the peers' environment: what each is given, and what its answer is on the scale that is judged.

Test cells are given to the peers as their users give them, in training, with one modality (totalVI, MultiVI) or with
both and the pairing unknown (scglue); none of them is made to meet a cell only afterwards. For MultiVI a test cell
comes twice under two names, once with each modality, so that one model answers both directions.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData, concat
from translation_tasks import Direction, Embeddings, Split, Task, pairs

from mofm.axes import Modality
from mofm.evaluation.baselines import SCALE
from mofm.evaluation.translation_baselines import centred_log_ratio
from mofm.omics.features import resolve_genes
from mofm.omics.genome import gene_table
from mofm.omics.proteins import resolve_proteins
from mofm.omics.regions import resolve_regions
from mofm.omics.simulate import to_mudata, write_mudata

SCRIPT = Path(__file__).with_name("peer_methods.py")


class Peers(NamedTuple):
    """Attributes: python, of the peers' environment; epochs, the most for each method that is limited; threads; seconds of
    training at most (of scglue about)."""

    python: str
    epochs: dict[str, int]
    threads: int = 1
    seconds: float | None = None

    def translate(self, of: Task, one: Split, folder: Path) -> Iterator[tuple[str, Direction, np.ndarray]]:
        """totalVI where there are RNA and ADT, MultiVI where there are RNA and ATAC; other modalities are not shown.

        Neither is asked where no pair is known: they learn from pairs what one modality says of another.
        """
        held = {name for name in of.omics if name == "rna" or pairs(one, "rna", name)[0].n_obs}
        if held >= {"rna", "adt"}:
            shown = {"rna": _with(one.train["rna"], one.test["rna"], "test"), "adt": one.train["adt"]}
            found = self._run("totalvi", shown, folder)
            yield "totalVI", ("rna", "adt"), centred_log_ratio(_rows(found, "cells", "adt", one.test["rna"], "test"))
        if held >= {"rna", "atac"}:
            shown = {name: _with(one.train[name], one.test[name], f"test-{name}") for name in ("rna", "atac")}
            found = self._run("multivi", shown, folder)
            yield "MultiVI", ("rna", "atac"), _rows(found, "atac_cells", "atac", one.test["rna"], "test-rna")
            frequency = _rows(found, "rna_cells", "rna", one.test["atac"], "test-atac")
            yield "MultiVI", ("atac", "rna"), np.log1p(SCALE * frequency)

    def align(self, of: Task, one: Split, folder: Path) -> Iterator[tuple[str, Embeddings]]:
        """scglue on RNA and ATAC or ADT."""
        for other in ("atac", "adt"):
            if other in of.omics:
                shown = {name: _with(one.train[name], one.test[name], "test") for name in ("rna", other)}
                _say_genes(shown, other, of.build)
                found = self._run("scglue", shown, folder)
                print(
                    f"scglue: {found['edges']} edges between {found['features']} features; balanced: {found['balanced']}"
                )
                yield "scglue", {name: found[name][-one.test[name].n_obs :] for name in shown}

    def _run(self, method: str, shown: dict[Modality, AnnData], folder: Path) -> dict[str, np.ndarray]:
        bare = {name: AnnData(adata.X, obs=adata.obs[[]], var=adata.var) for name, adata in shown.items()}
        # totalVI's early stopping ends small data sets' training while the KL term still warms up.
        options = ["--patient"] if method == "totalvi" else []
        options += ["--epochs", str(self.epochs[method])] if method in self.epochs else []
        options += ["--seconds", f"{self.seconds:.0f}"] if self.seconds else []
        return run_peer(self.python, method, bare, folder, options, self.threads)


def run_peer(
    python: str,
    method: str,
    shown: dict[Modality, AnnData],
    folder: Path,
    options: Sequence[str] = (),
    threads: int = 1,
) -> dict[str, np.ndarray]:
    """What `peer_methods.py` answers, run by the interpreter of the peers' environment; how long it took is printed."""
    given, answer = folder / f"{method}.h5mu", folder / f"{method}.npz"
    write_mudata(to_mudata(shown), given)
    command = [python, str(SCRIPT), method, str(given), str(answer), *options]
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    # The peers' own packages, not those that this process was told of.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | limits
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-4000:]}")
    with np.load(answer) as found:
        print(f"{method}: {found['seconds']:.0f} s, {found['epochs']} epochs")
        return dict(found)


def _with(train: AnnData, test: AnnData, prefix: str) -> AnnData:
    """Training cells and then test cells, these under another name."""
    renamed = test.copy()
    renamed.obs_names = [f"{prefix}-{name}" for name in test.obs_names]
    both = concat([AnnData(x.X, obs=x.obs[[]], var=x.var[[]]) for x in (train, renamed)])
    both.var = train.var[[]].copy()
    return both


def _rows(found: dict[str, np.ndarray], cells: str, values: str, test: AnnData, prefix: str) -> np.ndarray:
    """The answer's rows of the test cells, in their order."""
    row = pd.Index(found[cells]).get_indexer([f"{prefix}-{name}" for name in test.obs_names])
    if (row < 0).any():
        raise RuntimeError(f"{np.sum(row < 0)} test cells have no {values} in the answer")
    return found[values][row]


def _say_genes(shown: dict[Modality, AnnData], other: Modality, build: str | None) -> None:
    """Writes into `var` what a guidance graph is made of: places of genes and peaks, or a protein's genes."""
    table = gene_table("human", build)
    rna = shown["rna"]
    rows = [table.row_of_id.get(gene, -1) for gene in resolve_genes(list(rna.var_names), table).ids]
    frame = table.frame.iloc[[max(row, 0) for row in rows]]
    unknown = np.array(rows) < 0
    for column in ("chrom", "start", "end", "strand"):
        rna.var[column] = frame[column].astype(object).to_numpy()
    rna.var.loc[unknown, "chrom"] = ""
    rna.var = rna.var.fillna("").astype({"start": int, "end": int, "chrom": str, "strand": str})
    if other == "atac":
        places = resolve_regions(list(shown["atac"].var_names))
        shown["atac"].var = shown["atac"].var.assign(chrom=places.chrom, start=places.start, end=places.end)
        return
    name_of = {gene: name for gene, name in zip(np.array(table.gene_ids)[rows], rna.var_names, strict=True)}
    genes = resolve_proteins(list(shown["adt"].var_names), table).genes
    shown["adt"].var["genes"] = [";".join(name_of[gene] for gene in some if gene in name_of) for some in genes]
