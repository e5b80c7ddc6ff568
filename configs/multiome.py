"""mofm multiome: translation learned from cells of which two or more omics were measured together (10x Multiome, CITE-seq).

    mofm ingest multiome.h5mu corpus/
    mofm train --config configs/multiome.py --config.data.corpus=corpus/ --workdir runs/multiome
    mofm translate runs/multiome rna.h5ad chromatin.h5ad --to atac

What is not set here is as in configs/small.py.
"""

from ml_collections import ConfigDict

from mofm.configs import small


def get_config() -> ConfigDict:
    """A child of small."""
    config = small.get_config()
    config.data.update({"tokens": 512})
    config.encoder.update({"region_rows": 16_384})
    config.translator = {"blocks": 1}
    config.objectives.update({"translation_weight": 1.0, "cycle_weight": 0.0, "drift_weight": 0.0})
    return config
