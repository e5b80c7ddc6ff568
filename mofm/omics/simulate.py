"""Simulated single-cell RNA counts whose gene regulatory network (GRN) is known.

The story, one function a step: draw a network, find its attractors (the cell types), let cells fluctuate around
them, read expression rates off the transcription factors, and count molecules the way a sequencer does.

    draw_network -> find_attractors -> sample_states -> expression_rates -> sample_counts

What is assumed, and what it costs, is told where it is done: `simulation.network` and `simulation.rna`. Every stage
draws from its own stream of the seed, and sparse products keep BLAS out: the same config gives the same bits; more
cells, more genes or another sequencer leave the TF network and the cell types as they are.
"""

import dataclasses

import numpy as np
import pandas as pd
from anndata import AnnData

from mofm.omics.simulation.config import SimulationConfig
from mofm.omics.simulation.network import draw_cell_types, draw_labels, sample_activity
from mofm.omics.simulation.rna import count_cells

__all__ = ["SimulationConfig", "simulate"]


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
    label_N = draw_labels(config)
    activity_NT = sample_activity(config, network, attractors_CT, label_N)
    counts, batch_N = count_cells(config, network, activity_NT, label_N)

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
