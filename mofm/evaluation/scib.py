"""scIB's measures of an integration (Luecken et al. 2022), by the package scib-metrics, as its `Benchmarker` takes them.

They are what papers of the field compare: bio conservation (isolated labels, k-means NMI and ARI, label silhouette, cLISI),
batch correction (BRAS, iLISI, kBET within labels, graph connectivity, how much less of the components batches explain),
the mean of each, and 0.4 batch correction + 0.6 bio conservation in all. 1 is best. Nothing is scaled by the other methods of
a table, so that a figure can be held against another study's.

Neighbours are exact, where `Benchmarker` takes approximate ones, but kBET's, which the package finds itself: its figures have
been the same each time, which is not promised. There are no intervals: a cell that a bootstrap drew twice would be its own
neighbour.
"""

import logging
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 90
"""Of the local inverse Simpson indices; 15 and 50 of these serve the others."""
FEWEST_CELLS = NEIGHBOURS + 1
PREFIX = "scIB "
KIND, SUM, BATCH, BIO, TOTAL = "Metric Type", "Aggregate score", "Batch correction", "Bio conservation", "Total"
"""Words of the package's table."""


def scib_scores(
    embeddings: Mapping[str, np.ndarray], before: str, labels_N: np.ndarray, batches_N: np.ndarray | None
) -> pd.DataFrame:
    """A row a metric, its name after PREFIX, and a column an embedding; float64. Without batches, bio conservation alone.

    What cannot be computed for an embedding is NaN, and in none of the sums, which are so of the same metrics for all.

    Args:
      embeddings: x_ND of each, of the same cells, `FEWEST_CELLS` at least.
      before: which of them has nothing done about batches.
      labels_N, batches_N: str, of two kinds each at least.
    """
    import scib_metrics  # of an extra, and slow to import
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    scib_metrics.settings.verbosity = logging.WARNING  # it prints a line for each label that it passes over
    no_batch = np.full(len(labels_N), "")
    obs = pd.DataFrame({"label": labels_N, "batch": no_batch if batches_N is None else batches_N}, dtype="category")
    cells = AnnData(obs=obs.set_index(obs.index.astype(str)))
    for name, x_ND in embeddings.items():
        cells.obsm[name] = np.ascontiguousarray(x_ND, np.float32)
    asked = (
        (BioConservation(isolated_labels=False), None) if batches_N is None else (BioConservation(), BatchCorrection())
    )
    of_file = ("batch", "label", list(embeddings))
    benchmarker = Benchmarker(cells, *of_file, *asked, pre_integrated_embedding_obsm_key=before, progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        benchmarker.prepare(_neighbours)
        benchmarker.benchmark()
        found = benchmarker.get_results()
    kind = found.loc[KIND]
    table = found.loc[list(embeddings), kind != SUM].astype(np.float64).T
    sums = table.dropna().groupby(kind).mean()
    if {BATCH, BIO} <= set(sums.index):
        sums.loc[TOTAL] = 0.4 * sums.loc[BATCH] + 0.6 * sums.loc[BIO]
    table = pd.concat([table, sums])
    return table.set_index(PREFIX + table.index)


def _neighbours(x_ND: np.ndarray, count: int):
    """The nearest cells of each, itself first."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    distances_NK, indices_NK = NearestNeighbors(n_neighbors=count).fit(x_ND).kneighbors(x_ND)
    return NeighborsResults(indices=indices_NK, distances=distances_NK)
