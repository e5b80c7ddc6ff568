"""Simulated single-cell RNA counts whose gene regulatory network (GRN) is known.

The story, one function a step: draw a network, find its attractors (the cell types), let cells fluctuate around
them, read expression rates off the transcription factors, and count molecules the way a sequencer does.

    draw_network -> find_attractors -> sample_states -> expression_rates -> sample_counts

Choices and their cost:

- **A cell type is a stable fixed point** of `dx/dt = sigmoid(W x + b) - x`, x the TF activities, 0 off and 1 on:
  lineage TFs exclude each other, and below each of them the identity TFs of its types do. It is found by integrating
  and proven by returning after a push, never assumed. Sister types share their lineage's program, so they are hard to
  tell apart. Feedback lives among these master TFs only; the other TFs form a cascade below them, which costs loops
  and buys exactly one state of the cascade for each state of the masters.
- **Variation inside a type follows the network**: cells are Langevin trajectories, not attractors plus white noise. The
  noise grows with the square root of production plus decay (chemical Langevin), so what is off stays quiet.
- **Targets respond log-linearly**: an edge's strength is the log fold change of its target from TF off to TF on. The
  regulators of a gene do not cooperate; in return every edge's effect is known in closed form.
- **Technical noise comes last**: batch effects and depth, negative binomial counts, then dropout, logistic in the log
  of the expected count as in SERGIO (Dibaeinia & Sinha 2020, doi:10.1016/j.cels.2020.08.003).
- **Every stage draws from its own stream** of the seed, and sparse products keep BLAS out: the same config gives the
  same bits; more cells, more genes or another sequencer leave the TF network and the cell types as they are.

Letters besides those of `mofm.axes`: T transcription factors, C cell types, S batches. N are the simulated cells.
"""

import dataclasses
import math
import numbers
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.special import expit

from mofm.errors import InputError

# Appended to, never reordered: a stage's place in this tuple is its stream of the seed.
_STAGES = (
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
)

_DRAWS = 20  # networks tried before giving up
_PUSH = 0.2  # how far (Euclidean) a state is pushed when it is tested
_TIME_STEP = 0.1  # of every integration; TF activities decay with time constant 1
_RELAX_STEPS, _LANGEVIN_STEPS = 1000, 100
_OWN_MRNA = 2.0  # log fold change of a TF's own mRNA from inactive to active
_RARE_SHARE = 0.2  # of the cells is split evenly, so that no type vanishes
# Cells are made in blocks to bound the memory. The blocks order the draws, so another size means other random numbers.
_STATE_BLOCK = 2048  # cells
_COUNT_BLOCK = 2**21  # cells x genes

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
}


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

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _checked(field.name, getattr(self, field.name), type(field.default), *_RANGES[field.name])
            object.__setattr__(self, field.name, value)
        if self.genes <= self.tfs:
            raise InputError(f"simulation: genes={self.genes} leaves no target beside tfs={self.tfs}: raise genes")
        masters = self.lineages + self.cell_types
        if masters > self.tfs:
            raise InputError(
                f"simulation: {self.cell_types} cell types in {self.lineages} lineages need {masters} master TFs, "
                f"tfs={self.tfs} are fewer: raise tfs or lower cell_types"
            )

    @property
    def lineages(self) -> int:
        """Number of lineages that the cell types are grouped into."""
        return -(-self.cell_types // self.types_per_lineage)


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


class Network(NamedTuple):
    """A gene regulatory network and the expression of its genes at rest.

    The TFs are ordered lineage masters, identity masters (in the order of the cell types), cascade.

    Attributes:
      weights_TT: CSR, target TF x regulator TF, weights in the input of the target's sigmoid.
      bias_T: float64, the input of a TF without active regulators.
      programs_CT: bool, the two master TFs that define a cell type: its lineage's and its own.
      effects_GT: CSR, target gene x TF, log fold change (nats) from TF off to on. Rows of TFs are empty.
      baseline_G: float64, log expression (nats, up to a constant) with every TF half active.
      tf_genes_T: int64, the gene that is this TF.
    """

    weights_TT: sparse.csr_matrix
    bias_T: np.ndarray
    programs_CT: np.ndarray
    effects_GT: sparse.csr_matrix
    baseline_G: np.ndarray
    tf_genes_T: np.ndarray

    def grn(self) -> sparse.csr_matrix:
        """All edges as one float32 CSR of genes x genes, row TF -> column target, self-activation on the diagonal."""
        n_genes = len(self.baseline_G)
        tf_edges, gene_edges = self.weights_TT.tocoo(), self.effects_GT.tocoo()
        regulator = self.tf_genes_T[np.concatenate([tf_edges.col, gene_edges.col])]
        target = np.concatenate([self.tf_genes_T[tf_edges.row], gene_edges.row])
        strength = np.concatenate([tf_edges.data, gene_edges.data]).astype(np.float32)
        return sparse.csr_matrix((strength, (regulator, target)), shape=(n_genes, n_genes))


def simulate(config: SimulationConfig) -> AnnData:
    """Simulated cells with everything that made them.

    Returns:
      AnnData of cells x genes. `X` CSR of int32 counts (signed, because tools subtract; an ingest narrows them);
      `obs` cell_type and batch (categorical), n_counts (int64); `var` is_tf; `varp["grn"]` as `Network.grn`: logits of
      the sigmoid to TFs, log fold changes to all other genes; `obsm["tf_activity"]` cells x TFs, float32 >= 0, 1 is on;
      `uns["simulation"]` config (a dict of numbers, `SimulationConfig(**config)` gives it back), attractors (float64,
      types x TFs), lineage (int64, of each type), tf_names (columns of tf_activity) and type_names.

    Raises:
      InputError: this config's networks do not have as many stable cell types as it asks for.
    """
    network, attractors_CT = draw_cell_types(config)
    label_N = _draw_labels(config)
    activity_NT = _sample_activity(config, network, attractors_CT, label_N)
    counts, batch_N = _count_cells(config, network, activity_NT, label_N)

    gene_names = np.array([f"SIMG{i:05d}" for i in range(1, config.genes + 1)])
    type_names = [f"type_{i}" for i in range(1, config.cell_types + 1)]
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(label_N, type_names),
            "batch": pd.Categorical.from_codes(batch_N, [f"batch_{i}" for i in range(1, config.batches + 1)]),
            "n_counts": np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel(),
        },
        index=[f"cell_{i:07d}" for i in range(1, config.cells + 1)],
    )
    var = pd.DataFrame({"is_tf": np.isin(np.arange(config.genes), network.tf_genes_T)}, index=gene_names)
    record = {
        "config": dataclasses.asdict(config),
        "attractors": attractors_CT,
        "lineage": np.arange(config.cell_types) // config.types_per_lineage,
        "tf_names": gene_names[network.tf_genes_T].astype(object),
        "type_names": np.array(type_names, dtype=object),
    }
    return AnnData(
        counts,
        obs=obs,
        var=var,
        obsm={"tf_activity": activity_NT},
        varp={"grn": network.grn()},
        uns={"simulation": record},
    )


def draw_cell_types(config: SimulationConfig) -> tuple[Network, np.ndarray]:
    """The first of the seed's networks that has all its cell types, with their attractors_CT.

    Raises:
      InputError: none of the networks tried does.
    """
    for draw in range(_DRAWS):
        network = draw_network(config, draw)
        attractors_CT = find_attractors(network, _stream(config, "push", draw))
        if attractors_CT is not None:
            return network, attractors_CT
    raise InputError(
        f"simulation: none of {_DRAWS} networks of seed={config.seed} has {config.cell_types} stable cell types at "
        f"switch_strength={config.switch_strength:g}: bring switch_strength nearer 1 or lower cell_types"
    )


def draw_network(config: SimulationConfig, draw: int = 0) -> Network:
    """The seed's network number `draw`, whether or not it has the cell types asked for."""
    weights_TT, bias_T, programs_CT = _draw_tf_network(config, _stream(config, "tf_network", draw))
    rng = _stream(config, "targets", draw)
    tf_genes_T = rng.choice(config.genes, config.tfs, replace=False)
    effects_GT = _draw_targets(config, tf_genes_T, rng)
    baseline_G = config.expression_sd * _stream(config, "baseline", draw).standard_normal(config.genes)
    return Network(weights_TT, bias_T, programs_CT, effects_GT, baseline_G, tf_genes_T)


def _draw_tf_network(config: SimulationConfig, rng: np.random.Generator):
    """TF -> TF weights (target x regulator), biases, and the masters of each cell type."""
    n_lineages, n_types, n_tfs = config.lineages, config.cell_types, config.tfs
    lineage_C = np.arange(n_types) // config.types_per_lineage
    own_C = n_lineages + np.arange(n_types)
    n_masters = n_lineages + n_types
    weights_TT, bias_T = np.zeros((n_tfs, n_tfs)), np.zeros(n_tfs)

    weights_TT[:n_lineages, :n_lineages] = np.where(np.eye(n_lineages, dtype=bool), 10, -6)
    sisters_CC = np.where(lineage_C[:, None] == lineage_C, -6, 0)
    weights_TT[n_lineages:n_masters, n_lineages:n_masters] = np.where(np.eye(n_types, dtype=bool), 10, sisters_CC)
    weights_TT[own_C, lineage_C] = 6
    weights_TT[:n_masters, :n_masters] *= rng.lognormal(0, 0.1, (n_masters, n_masters))
    # A lineage TF holds itself up; an identity TF needs itself and its lineage, so that a type implies its lineage.
    bias_T[:n_masters] = -0.35 * np.diagonal(weights_TT)[:n_masters]
    bias_T[own_C] -= weights_TT[own_C, lineage_C]

    for tf in range(n_masters, n_tfs):
        regulators = rng.choice(tf, min(tf, 1 + rng.poisson(1.0)), replace=False)
        sign = np.where(rng.random(len(regulators)) < config.activation_fraction, 1, -1)
        weights_TT[tf, regulators] = 4 * sign * rng.lognormal(0, 0.3, len(regulators))
        bias_T[tf] = -weights_TT[tf].sum() / 2  # half active when its regulators are

    programs_CT = np.zeros((n_types, n_tfs), dtype=bool)
    programs_CT[np.arange(n_types), lineage_C] = programs_CT[np.arange(n_types), own_C] = True
    return sparse.csr_matrix(config.switch_strength * weights_TT), config.switch_strength * bias_T, programs_CT


def _draw_targets(config: SimulationConfig, tf_genes_T: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Log fold changes of target genes x TFs: few regulators a gene, many targets for few TFs."""
    targets = rng.permutation(np.setdiff1d(np.arange(config.genes), tf_genes_T))
    targets = targets[: len(targets) - round(config.unregulated_fraction * len(targets))]
    propensity_T = 1 + rng.pareto(config.out_degree_tail, config.tfs)
    n_regulators = np.minimum(1 + rng.poisson(config.regulators_per_gene - 1, len(targets)), config.tfs)
    # Ranking by log propensity + Gumbel noise draws without replacement, for all genes at once.
    ranked = np.argsort(-np.log(propensity_T) - rng.gumbel(size=(len(targets), config.tfs)), axis=1)
    tf = ranked[np.arange(config.tfs) < n_regulators[:, None]]
    sign = np.where(rng.random(len(tf)) < config.activation_fraction, 1, -1)
    effect = sign * config.effect_size * rng.gamma(2.0, 0.5, len(tf))
    return sparse.csr_matrix((effect, (np.repeat(targets, n_regulators), tf)), shape=(config.genes, config.tfs))


def find_attractors(network: Network, rng: np.random.Generator) -> np.ndarray | None:
    """The stable state that each cell type's program falls into, as float64 types x TFs.

    None where one of them is not at rest, has other masters on than its program (so that two could be the same state),
    or is not returned to after a random push.
    """
    attractors_TC = relax(network, network.programs_CT.T.astype(np.float64))
    attractors_CT = attractors_TC.T
    at_rest = np.abs(_velocity(network, attractors_TC)).max() < 1e-8
    masters = network.programs_CT.any(axis=0)
    own_program = np.array_equal(attractors_CT[:, masters] > 0.5, network.programs_CT[:, masters])
    push_TC = rng.standard_normal(attractors_TC.shape)
    pushed_TC = np.maximum(attractors_TC + _PUSH * push_TC / np.linalg.norm(push_TC, axis=0), 0)
    returns = np.abs(relax(network, pushed_TC) - attractors_TC).max() < 1e-6
    return attractors_CT if at_rest and own_program and returns else None


def relax(network: Network, state_TN: np.ndarray) -> np.ndarray:
    """Where the TF activities of each column end up without noise (after 100 time constants)."""
    for _ in range(_RELAX_STEPS):
        state_TN = state_TN + _TIME_STEP * _velocity(network, state_TN)
    return state_TN


def _velocity(network: Network, state_TN: np.ndarray) -> np.ndarray:
    return expit(network.weights_TT @ state_TN + network.bias_T[:, None]) - state_TN


def sample_states(network: Network, start_TN: np.ndarray, state_noise: float, rng: np.random.Generator) -> np.ndarray:
    """TF activities (TFs x cells) of cells that started at `start_TN` and fluctuated for 10 time constants."""
    state_TN = start_TN
    kick = state_noise * math.sqrt(_TIME_STEP)
    for _ in range(_LANGEVIN_STEPS):
        velocity_TN = _velocity(network, state_TN)
        turnover_TN = velocity_TN + 2 * state_TN  # production + decay
        noise_TN = kick * np.sqrt(turnover_TN / 2) * rng.standard_normal(state_TN.shape)
        state_TN = np.maximum(state_TN + _TIME_STEP * velocity_TN + noise_TN, 0)
    return state_TN


def expression_rates(network: Network, state_TN: np.ndarray) -> np.ndarray:
    """The share of a cell's transcripts that each gene has: float64 cells x genes, rows sum to 1."""
    n_tfs = len(network.tf_genes_T)
    own_mrna = (np.full(n_tfs, _OWN_MRNA), (network.tf_genes_T, np.arange(n_tfs)))
    response_GT = network.effects_GT + sparse.csr_matrix(own_mrna, shape=network.effects_GT.shape)
    rate_NG = np.exp(np.ascontiguousarray((response_GT @ (state_TN - 0.5)).T) + network.baseline_G)
    return rate_NG / rate_NG.sum(axis=1, keepdims=True)


def sample_counts(
    expected_NG: np.ndarray,
    overdispersion: float,
    dropout: float,
    rng: np.random.Generator,
    dropout_rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Negative binomial counts (int32 CSR) around the expected UMIs, some lost. Dropout only ever removes entries."""
    mean_NG = expected_NG
    if overdispersion:
        mean_NG = expected_NG * overdispersion * rng.standard_gamma(1 / overdispersion, expected_NG.shape)
    counts_NG = rng.poisson(mean_NG).astype(np.int32)
    counts_NG[dropout_rng.random(expected_NG.shape) < dropout / (1 + expected_NG)] = 0
    return sparse.csr_matrix(counts_NG)


def _draw_labels(config: SimulationConfig) -> np.ndarray:
    """The cell type of each cell, int64."""
    rng = _stream(config, "composition")
    share_C = rng.dirichlet(np.full(config.cell_types, config.type_concentration))
    share_C = (1 - _RARE_SHARE) * share_C + _RARE_SHARE / config.cell_types
    return rng.choice(config.cell_types, config.cells, p=share_C)


def _draw_batches(config: SimulationConfig, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each cell's batch, its depth (expected UMIs), and each batch's log factors on the genes."""
    rng = _stream(config, "batches")
    gene_factor_SG = config.batch_effect * rng.standard_normal((config.batches, config.genes))
    depth_factor_S = config.batch_effect / 2 * rng.standard_normal(config.batches)
    share_CS = rng.dirichlet(np.full(config.batches, config.batch_concentration), config.cell_types)
    batch_N = (rng.random((config.cells, 1)) > share_CS.cumsum(axis=1)[label_N, :-1]).sum(axis=1)
    log_depth_N = config.library_size_sd * _stream(config, "depth").standard_normal(config.cells)
    depth_N = config.library_size * np.exp(log_depth_N + depth_factor_S[batch_N])
    return batch_N, depth_N, gene_factor_SG


def _sample_activity(config: SimulationConfig, network: Network, attractors_CT: np.ndarray, label_N: np.ndarray):
    """TF activities of all cells: float32 cells x TFs."""
    rng = _stream(config, "states")
    activity_NT = np.empty((config.cells, config.tfs), dtype=np.float32)
    for start in range(0, config.cells, _STATE_BLOCK):
        block = slice(start, start + _STATE_BLOCK)
        activity_NT[block] = sample_states(network, attractors_CT[label_N[block]].T, config.state_noise, rng).T
    return activity_NT


def _count_cells(config: SimulationConfig, network: Network, activity_NT: np.ndarray, label_N: np.ndarray):
    """Counts (int32 CSR) and the batch of each cell."""
    batch_N, depth_N, gene_factor_SG = _draw_batches(config, label_N)
    rng, dropout_rng = _stream(config, "counts"), _stream(config, "dropout")
    blocks, cells_a_block = [], max(1, _COUNT_BLOCK // config.genes)
    for start in range(0, config.cells, cells_a_block):
        block = slice(start, start + cells_a_block)
        share_NG = expression_rates(network, activity_NT[block].T) * np.exp(gene_factor_SG[batch_N[block]])
        expected_NG = share_NG * (depth_N[block] / share_NG.sum(axis=1))[:, None]
        blocks.append(sample_counts(expected_NG, config.overdispersion, config.dropout, rng, dropout_rng))
    return sparse.vstack(blocks, format="csr"), batch_N


def _stream(config: SimulationConfig, stage: str, draw: int = 0) -> np.random.Generator:
    """The random numbers of one stage, independent of those of every other."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(_STAGES.index(stage), draw)))
