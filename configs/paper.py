"""mofm paper: every part of mofm in one model, whose worth `tests/benchmarks/ablations.py` takes apart.

    mofm ingest multiome.h5mu cite.h5mu rna.h5ad corpus/
    mofm train --config configs/paper.py --config.data.corpus=corpus/ --config.data.batch_key=batch \\
        --config.network.tables="['dorothea.tsv.gz']" --workdir runs/paper
    mofm evaluate runs/paper heldout.h5mu --out report/ --label-key cell_type --batch-key batch

Omics paired where they are paired, translation in one step and there and back, a regulatory network, and views of one cell
near each other whatever their depth. Its figures are in tests/benchmarks/RESULTS.md, "Ablations"; `tests/benchmarks/paper.py`
makes them anew, with all others of the README. What is not set here is as in configs/mosaic.py.
"""

from ml_collections import ConfigDict

from mofm.configs import mosaic


def get_config() -> ConfigDict:
    """A child of mosaic."""
    config = mosaic.get_config()
    config.network = ConfigDict({"tables": (), "held_out_edges": 0.05})
    config.grn = ConfigDict({"width": 32})
    config.objectives.update({"link_weight": 0.1})
    config.objectives.alignment = ConfigDict({"contrast_weight": 0.1, "structure_weight": 0.1, "depth_weight": 1.0})
    return config
