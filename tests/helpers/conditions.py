"""Cells of which half are treated, as several tests of responses have them."""

import anndata as ad
import numpy as np
from scipy import sparse


def treat(adata: ad.AnnData) -> ad.AnnData:
    """The cells of `make_cells`, half of them treated: 12 genes rise, 6 of them by the cell's type.

    Returns:
      them with obs "condition" (none, drug), "group" (two of each type, and 20 cells of a fifth, "few") and "alone", which
      is one with condition.
    """
    cells = adata.n_obs
    rng, counts = np.random.default_rng(1), adata.X.toarray()
    is_treated, is_a = rng.random(cells) < 0.5, (adata.obs["cell_type"] == "a").to_numpy()
    counts[np.ix_(is_treated, range(6))] += rng.poisson(3, (is_treated.sum(), 6))
    for mine, genes in ((is_a, range(6, 12)), (~is_a, range(12, 18))):
        counts[np.ix_(is_treated & mine, genes)] += rng.poisson(3, ((is_treated & mine).sum(), 6))
    adata.X = sparse.csr_matrix(counts)
    adata.obs["condition"] = np.where(is_treated, "drug", "none")
    adata.obs["group"] = [f"{'a' if a else 'b'}{place % 2}" for place, a in enumerate(is_a)]
    adata.obs.loc[adata.obs_names[:20], "group"] = "few"
    adata.obs["alone"] = np.where(is_treated, "x", "y")
    return adata
