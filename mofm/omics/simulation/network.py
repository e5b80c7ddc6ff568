"""The gene regulatory network of a simulation, and its dynamics: attractors, and cells that fluctuate around them.

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
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit

from mofm.errors import InputError
from mofm.omics.simulation.config import SimulationConfig, stream

_DRAWS = 20  # networks tried before giving up
_OWN_MRNA = 2.0  # log fold change of a TF's own mRNA from inactive to active
_PUSH = 0.2  # how far (Euclidean) a state is pushed when it is tested
TIME_STEP = 0.1  # of every integration; TF activities decay with time constant 1
_RELAX_STEPS, _LANGEVIN_STEPS = 1000, 100


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

    def edges(self) -> sparse.csr_matrix:
        """All edges as one float64 CSR of target genes x TFs: logits of the sigmoid to TFs, log fold changes else."""
        tf_edges, gene_edges = self.weights_TT.tocoo(), self.effects_GT.tocoo()
        target = np.concatenate([self.tf_genes_T[tf_edges.row], gene_edges.row])
        regulator = np.concatenate([tf_edges.col, gene_edges.col])
        strength = np.concatenate([tf_edges.data, gene_edges.data])
        return sparse.csr_matrix((strength, (target, regulator)), shape=self.effects_GT.shape)

    def grn(self) -> sparse.csr_matrix:
        """All edges as one float32 CSR of genes x genes, row TF -> column target, self-activation on the diagonal."""
        n_genes, edges = len(self.baseline_G), self.edges().tocoo()
        places = self.tf_genes_T[edges.col], edges.row
        return sparse.csr_matrix((edges.data.astype(np.float32), places), shape=(n_genes, n_genes))

    def responses(self) -> sparse.csr_matrix:
        """Log fold changes (nats) of all genes x TFs, from TF off to on: the effects, and a TF's own mRNA."""
        own_mrna = np.full(len(self.tf_genes_T), _OWN_MRNA), (self.tf_genes_T, np.arange(len(self.tf_genes_T)))
        return self.effects_GT + sparse.csr_matrix(own_mrna, shape=self.effects_GT.shape)


def draw_cell_types(config: SimulationConfig) -> tuple[Network, np.ndarray]:
    """The first of the seed's networks that has all its cell types, with their attractors_CT.

    Raises:
      InputError: none of the networks tried does.
    """
    for draw in range(_DRAWS):
        network = draw_network(config, draw)
        attractors_CT = find_attractors(network, stream(config, "push", draw))
        if attractors_CT is not None:
            return network, attractors_CT
    raise InputError(
        f"simulation: none of {_DRAWS} networks of seed={config.seed} has {config.cell_types} stable cell types at "
        f"switch_strength={config.switch_strength:g}: bring switch_strength nearer 1 or lower cell_types"
    )


def draw_network(config: SimulationConfig, draw: int = 0) -> Network:
    """The seed's network number `draw`, whether or not it has the cell types asked for."""
    weights_TT, bias_T, programs_CT = _draw_tf_network(config, stream(config, "tf_network", draw))
    rng = stream(config, "targets", draw)
    tf_genes_T = rng.choice(config.genes, config.tfs, replace=False)
    effects_GT = _draw_targets(config, tf_genes_T, rng)
    baseline_G = config.expression_sd * stream(config, "baseline", draw).standard_normal(config.genes)
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
        state_TN = state_TN + TIME_STEP * _velocity(network, state_TN)
    return state_TN


def _velocity(network: Network, state_TN: np.ndarray, drive_TN: np.ndarray | float = 0.0) -> np.ndarray:
    return expit(network.weights_TT @ state_TN + network.bias_T[:, None] + drive_TN) - state_TN


def sample_states(
    network: Network,
    start_TN: np.ndarray,
    state_noise: float,
    rng: np.random.Generator,
    follow: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
    """TF activities (TFs x cells) of cells that started at `start_TN` and fluctuated for 10 time constants.

    `follow` is shown the state after each time step.
    """
    state_TN = start_TN
    for _ in range(_LANGEVIN_STEPS):
        state_TN = next_states(network, state_TN, state_noise, rng)
        if follow:
            follow(state_TN)
    return state_TN


def next_states(
    network: Network,
    state_TN: np.ndarray,
    state_noise: float,
    rng: np.random.Generator,
    drive_TN: np.ndarray | float = 0.0,
) -> np.ndarray:
    """TF activities one time step later; `drive_TN` is added to the input of each TF's sigmoid."""
    velocity_TN = _velocity(network, state_TN, drive_TN)
    turnover_TN = velocity_TN + 2 * state_TN  # production + decay
    kick = state_noise * math.sqrt(TIME_STEP)
    noise_TN = kick * np.sqrt(turnover_TN / 2) * rng.standard_normal(state_TN.shape)
    return np.maximum(state_TN + TIME_STEP * velocity_TN + noise_TN, 0)
