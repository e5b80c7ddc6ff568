"""mofm small: about 2 M parameters, for one data set of some thousand cells on a laptop or a single GPU.

    mofm ingest cells.h5ad corpus/
    mofm train --config configs/small.py --config.data.corpus=corpus/ --workdir runs/mine
    mofm embed runs/mine cells.h5ad cells_embedded.h5ad

What is not set here is as in configs/base.py.
"""

from ml_collections import ConfigDict

from mofm.configs import base


def get_config() -> ConfigDict:
    """A child of base."""
    config = base.get_config()
    config.data.update({"batch_size": 64, "tokens": 256, "holdout_fraction": 0.1})
    config.encoder.update({"width": 128, "blocks": 2, "heads": 4, "ffn": 352, "cell_width": 64})
    config.encoder.update({"compute_dtype": "float32", "remat": "full"})
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 50})
    config.run.update({"steps": 2_000, "eval_every": 250, "checkpoint_every": 250})
    return config
