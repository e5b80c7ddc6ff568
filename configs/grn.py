"""mofm grn: small, with the regulation of genes in its pretraining.

    mofm train --config configs/grn.py --config.data.corpus=corpus/ \\
        --config.network.tables="['dorothea.tsv.gz', 'trrust_rawdata.human.tsv']" --workdir runs/grn
    mofm regulators runs/grn cells.h5ad --groupby cell_type

Tables are TF -> target edges of any common layout (`mofm inspect TABLE` shows how mofm reads one). What is expected of
it, and what it was measured to be worth, is in tests/benchmarks/RESULTS.md, "Regulation". What is not set here is as in
configs/small.py.
"""

from ml_collections import ConfigDict

from mofm.configs import small


def get_config() -> ConfigDict:
    """A child of small."""
    config = small.get_config()
    config.network = ConfigDict({"tables": (), "held_out_edges": 0.05, "held_out_tfs": 0.0})
    config.grn = ConfigDict({"width": 32, "layers": 1, "kind": "convolution"})
    config.objectives.update({"link_weight": 0.1, "links_per_step": 1_024, "edge_dropout": 0.1})
    return config
