"""mofm mosaic: every omics type that there is, paired where it is paired: what pairs teach, round trips carry to the rest.

    mofm ingest multiome.h5mu cite.h5mu rna.h5ad corpus/
    mofm train --config configs/mosaic.py --config.data.corpus=corpus/ --workdir runs/mosaic
    mofm translate runs/mosaic rna.h5ad proteins.h5ad --to adt

Each modality has a block of its own before the shared ones, and some columns of the cell embedding for itself. What is not
set here is as in configs/multiome.py.
"""

from ml_collections import ConfigDict

from mofm.configs import multiome


def get_config() -> ConfigDict:
    """A child of multiome."""
    config = multiome.get_config()
    config.encoder.update({"modality_blocks": 1, "private_width": 8})
    config.objectives.update({"translation_weight": 1.0, "cycle_weight": 0.1, "drift_weight": 0.1})
    return config
