"""What to simulate: the config with its checks, and the streams of random numbers that its seed stands for.

Letters of `mofm.omics.simulation` besides those of `mofm.axes`: T transcription factors, C cell types, S batches,
D donors, P peaks, A antibodies, R methylation regions, J legs of a path, M time steps. N are the simulated cells,
G the simulated genes.
"""

import dataclasses
import math
import numbers

import numpy as np

from mofm.errors import InputError

# Appended to, never reordered: a stage's place in this tuple is its stream of the seed.
STAGES = (
    "tf_network",
    "targets",
    "baseline",
    "push",
    "composition",
    "states",
    "batches",
    "depth",
    "counts",
    "dropout",
    "donors",
    "path",
    "path_states",
    "gene_names",
    "peak_places",
    "binding",
    "openness",
    "background_peaks",
    "fragments",
    "antibodies",
    "antibody_counts",
    "regions",
    "reads",
    "methylated_reads",
    "split",
)

OF_CELLS = frozenset({
    "composition", "states", "batches", "depth", "counts", "dropout", "donors", "path", "path_states", "fragments",
    "antibody_counts", "reads", "methylated_reads",
})  # fmt: skip
"""Stages that another part of the same simulation draws anew; the others make what all parts share."""

# field -> (lowest, highest); the type of the default says whether whole numbers are meant.
_RANGES = {
    "cells": (1, math.inf),
    "genes": (2, math.inf),
    "tfs": (2, math.inf),
    "cell_types": (1, math.inf),
    "types_per_lineage": (1, math.inf),
    "batches": (1, math.inf),
    "seed": (0, 2**63 - 1),
    "regulators_per_gene": (1.0, 50.0),
    "out_degree_tail": (0.5, 100.0),
    "unregulated_fraction": (0.0, 1.0),
    "activation_fraction": (0.0, 1.0),
    "effect_size": (0.0, 5.0),
    "switch_strength": (0.0, 10.0),
    "state_noise": (0.0, 1.0),
    "type_concentration": (0.01, 1e6),
    "expression_sd": (0.0, 4.0),
    "library_size": (1.0, 1e7),
    "library_size_sd": (0.0, 3.0),
    "overdispersion": (0.0, 10.0),
    "dropout": (0.0, 1.0),
    "batch_effect": (0.0, 3.0),
    "batch_concentration": (0.01, 1e6),
    "donors": (1, math.inf),
    "donor_effect": (0.0, 3.0),
    "donor_concentration": (0.01, 1e6),
    "path_types": (0, math.inf),
    "part": (0, math.inf),
}


def check_fields(config, ranges: dict[str, tuple[float, float]], prefix: str = "") -> None:
    """Checks every field of a config, and makes it the kind of Python number that its default is.

    Raises:
      InputError: a value of the wrong kind or out of its (lowest, highest) range; `prefix` says which config's it is.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        value = _checked(f"{prefix}{field.name}", value, type(field.default), *ranges[field.name])
        object.__setattr__(config, field.name, value)


def _checked(name: str, value: object, kind: type, low: float, high: float) -> int | float:
    """`value` as a Python number of `kind`, so that a config read back from HDF5 equals the one written."""
    allowed = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, allowed):
        meant = "a whole number" if kind is int else "a number"
        raise InputError(f"simulation: {name}={value!r} is not {meant}")
    if not low <= value <= high:
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise InputError(f"simulation: {name}={value!r} is out of range, give at least {low:g}{upper}")
    return kind(value)


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """What to simulate. The defaults give data as sparse and about as hard as a shallow 10x run of related cell types.

    Attributes:
      cells, genes, tfs, cell_types, batches: how many of each. TFs are genes too; each cell type and each lineage
        needs a master TF of its own.
      types_per_lineage: sister types that share a lineage's program (the last lineage may have fewer).
      seed: of all streams.
      regulators_per_gene: mean number of TFs that regulate a regulated gene (1 + Poisson).
      out_degree_tail: Pareto exponent of the TFs' propensity to have targets; smaller is heavier.
      unregulated_fraction: share of the non-TF genes without any regulator (housekeeping).
      activation_fraction: share of the TF -> gene edges, and of those of the TF cascade, that activate.
      effect_size: mean |log fold change| (nats) of an edge to a gene that is no TF.
      switch_strength: scales the TF -> TF weights; far below 1 the switches melt and no cell types exist.
      state_noise: Langevin noise of a fully active TF, per square root of its time constant; above about 0.25 cells
        leave their type's attractor.
      type_concentration: Dirichlet concentration of the cell type proportions; smaller makes some types rarer.
      expression_sd: standard deviation of the genes' baseline log expression.
      library_size: median expected UMIs of a cell before dropout.
      library_size_sd: standard deviation of its log.
      overdispersion: of the negative binomial: variance = mean + overdispersion * mean^2; 0 is Poisson.
      dropout: chance to lose an entry of vanishing expectation; an entry that expects m UMIs is lost with
        dropout / (1 + m).
      batch_effect: standard deviation of the log factors of a batch, on each gene and (half of it) on the depth.
      batch_concentration: Dirichlet concentration of a type's spread over batches; smaller confounds them more.
      donors: people that the cells are of. Donors are spread over the batches alike.
      donor_effect: standard deviation of a donor's log factors on the genes, where there are several. It is biology:
        promoters and proteins follow it.
      donor_concentration: Dirichlet concentration of a type's spread over donors.
      path_types: the first so many cell types are the stations of one differentiation path, and their cells are spread
        along it; 0 for none.
      part: of a simulation that is made in parts: other cells, batches and donors of the same network and cell types.

    Raises:
      InputError: a value of the wrong kind or out of range, or more cell types than the TFs can hold.
    """

    cells: int = 3000
    genes: int = 1000
    tfs: int = 50
    cell_types: int = 8
    types_per_lineage: int = 3
    batches: int = 2
    seed: int = 0
    regulators_per_gene: float = 3.0
    out_degree_tail: float = 2.0
    unregulated_fraction: float = 0.2
    activation_fraction: float = 0.7
    effect_size: float = 0.35
    switch_strength: float = 1.0
    state_noise: float = 0.18
    type_concentration: float = 3.0
    expression_sd: float = 1.8
    library_size: float = 1700.0
    library_size_sd: float = 0.35
    overdispersion: float = 0.5
    dropout: float = 0.5
    batch_effect: float = 0.3
    batch_concentration: float = 5.0
    donors: int = 1
    donor_effect: float = 0.2
    donor_concentration: float = 20.0
    path_types: int = 0
    part: int = 0

    def __post_init__(self):
        check_fields(self, _RANGES)
        if self.genes <= self.tfs:
            raise InputError(f"simulation: genes={self.genes} leaves no target beside tfs={self.tfs}: raise genes")
        masters = self.lineages + self.cell_types
        if masters > self.tfs:
            raise InputError(
                f"simulation: {self.cell_types} cell types in {self.lineages} lineages need {masters} master TFs, "
                f"tfs={self.tfs} are fewer: raise tfs or lower cell_types"
            )
        if self.path_types == 1 or self.path_types > self.cell_types:
            raise InputError(
                f"simulation: path_types={self.path_types} is no path among {self.cell_types} cell types: give 2 to "
                f"{self.cell_types}, or 0 for none"
            )

    @property
    def lineages(self) -> int:
        """Number of lineages that the cell types are grouped into."""
        return -(-self.cell_types // self.types_per_lineage)


def stream(config: SimulationConfig, stage: str, draw: int = 0) -> np.random.Generator:
    """The random numbers of one stage, independent of those of every other."""
    part = (config.part,) if config.part and stage in OF_CELLS else ()
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(STAGES.index(stage), draw, *part)))
