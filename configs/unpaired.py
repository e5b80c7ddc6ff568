"""mofm unpaired: omics of different cells in one space, translated there and back again, without any pair.

    mofm ingest rna.h5ad corpus/
    mofm ingest chromatin.h5ad corpus/ --modality atac
    mofm train --config configs/unpaired.py --config.data.corpus=corpus/ --workdir runs/unpaired
    mofm translate runs/unpaired rna.h5ad chromatin_of_rna.h5ad --to atac

What is not set here is as in configs/multiome.py.
"""

from ml_collections import ConfigDict

from mofm.configs import multiome


def get_config() -> ConfigDict:
    """A child of multiome."""
    config = multiome.get_config()
    config.objectives.update({"translation_weight": 0.0, "cycle_weight": 0.1, "drift_weight": 0.1})
    return config
