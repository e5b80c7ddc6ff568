"""Surface proteins of simulated cells, counted by antibodies.

What an antibody reads is its protein, which lags behind its gene (`simulation.cells`), plus what sticks to the cell
whatever the protein: a background of the cell, shared by all antibodies in fixed proportions, isotype controls
included. So background correlates antibodies that share no biology, as ambient and unspecific antibody do.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from mofm.omics.simulation.cells import Cells
from mofm.omics.simulation.config import SimulationConfig, check_fields, stream
from mofm.omics.simulation.network import Network
from mofm.omics.simulation.reads import draw_depths

_ISOTYPES = ("Mouse IgG1", "Mouse IgG2a", "Mouse IgG2b", "Rat IgG2b")
_SIGNAL_SD, _STICKY_SD = 1.0, 0.5  # of the log of an antibody's signal and of its share of the background

_RANGES = {
    "antibodies": (1, math.inf),
    "isotypes": (0, len(_ISOTYPES)),
    "lag": (0.1, 100.0),
    "library_size": (1.0, 1e7),
    "library_size_sd": (0.0, 3.0),
    "background": (0.0, 1.0),
    "background_sd": (0.0, 3.0),
    "overdispersion": (0.0, 10.0),
}


@dataclasses.dataclass(frozen=True)
class AdtConfig:
    """How surface proteins lag behind their genes and are measured.

    Attributes:
      antibodies: surface proteins; they are of the genes that differ most between the cell types.
      isotypes: control antibodies that bind nothing.
      lag: time constant of a protein, in time constants of TF activity.
      library_size: median expected antibody UMIs of a cell.
      library_size_sd: standard deviation of its log.
      background: share of these UMIs that is unspecific binding, in a cell of median background.
      background_sd: standard deviation of the log of a cell's background.
      overdispersion: of the negative binomial, as in `SimulationConfig`.

    Raises:
      InputError: a value of the wrong kind or out of range.
    """

    antibodies: int = 30
    isotypes: int = 2
    lag: float = 3.0
    library_size: float = 2000.0
    library_size_sd: float = 0.3
    background: float = 0.3
    background_sd: float = 0.5
    overdispersion: float = 0.05

    def __post_init__(self):
        check_fields(self, _RANGES, "adt.")


def choose_surface(adt: AdtConfig, network: Network, attractors_CT: np.ndarray) -> np.ndarray:
    """The genes whose proteins are measured, int64: no TFs, those whose log expression differs most between the types.

    A panel is chosen for what it distinguishes.
    """
    contrast_G = (network.effects_GT @ attractors_CT.T).std(axis=1)
    contrast_G[network.tf_genes_T] = -1
    return np.argsort(-contrast_G, kind="stable")[: adt.antibodies]


class AntibodyCounts(NamedTuple):
    """What antibodies read.

    Attributes:
      counts: int32 CSR, cells x antibodies, the isotype controls last.
      protein_NA: float32, what there is to bind: levels as in `Cells`, times the donor's factor; 0 for controls.
      background_N: float64, each cell's unspecific binding; 1 is the median.
      var: index the protein's gene symbol, or the control's name; columns gene_id ("" for a control), is_isotype,
        signal (what a protein level of 1 yields) and sticky (share of the background), float64.
    """

    counts: sparse.csr_matrix
    protein_NA: np.ndarray
    background_N: np.ndarray
    var: pd.DataFrame


def count_adt(
    config: SimulationConfig, adt: AdtConfig, genes: pd.DataFrame, surface_A: np.ndarray, cells: Cells
) -> AntibodyCounts:
    """Antibody UMIs of all cells; `genes` is what `choose_genes` gave for `surface_A`."""
    rng = stream(config, "antibodies")
    n_antibodies = len(surface_A) + adt.isotypes
    is_isotype_A = np.arange(n_antibodies) >= len(surface_A)
    signal_A = np.exp(_SIGNAL_SD * rng.standard_normal(n_antibodies)) * ~is_isotype_A
    sticky_A = np.exp(_STICKY_SD * rng.standard_normal(n_antibodies))
    sticky_A /= sticky_A.sum()
    factor_SA = np.exp(config.batch_effect * rng.standard_normal((config.batches, n_antibodies)))
    depth_N = draw_depths(config, adt.library_size, adt.library_size_sd, cells.batch_N, rng)
    background_N = np.exp(adt.background_sd * rng.standard_normal(config.cells))

    protein_NA = np.zeros((config.cells, n_antibodies), dtype=np.float32)
    protein_NA[:, : len(surface_A)] = cells.protein_NA * np.exp(cells.shift_DG[:, surface_A])[cells.donor_N]
    signal_A /= np.median(protein_NA @ signal_A)
    mean_NA = adt.background * background_N[:, None] * sticky_A + (1 - adt.background) * protein_NA * signal_A
    mean_NA *= depth_N[:, None] * factor_SA[cells.batch_N]

    count_rng = stream(config, "antibody_counts")
    if adt.overdispersion:
        mean_NA *= adt.overdispersion * count_rng.standard_gamma(1 / adt.overdispersion, mean_NA.shape)
    counts = sparse.csr_matrix(count_rng.poisson(mean_NA).astype(np.int32))
    controls = [f"{name} isotype control" for name in _ISOTYPES[: adt.isotypes]]
    measured = genes.iloc[surface_A]
    columns = {
        "gene_id": [*measured.index, *[""] * adt.isotypes],
        "is_isotype": is_isotype_A,
        "signal": signal_A,
        "sticky": sticky_A,
    }
    var = pd.DataFrame(columns, index=[*measured["gene_symbol"], *controls])
    return AntibodyCounts(counts, protein_NA, background_N, var)
